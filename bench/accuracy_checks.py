"""What docs/accuracy.md shows beside the measured rows: the tests' own checks, as tables.

Each takes minutes; the cases are the ones that the tests hold the same readings to.
"""

from __future__ import annotations

import gc
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from cpu_truth import CASES, compare
from test_formula_sample import NUM_PLANS, SEED, sample

from bench.accuracy_tables import mean_and_worst, percent, table
from bench.sweep import as_markdown, sweep
from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan
from trainer.dryrun import dry_run

HALF_A_PERCENT, A_PERCENT = 0.005, 0.01


def cpu_truth() -> str:
    """Return the dry run's peaks beside the CPU allocator's own; some 40 seconds."""
    peaks = compare(CASES)
    errors = [traced / true - 1 for _, traced, true in peaks]
    sizes = sorted(map(abs, errors))
    rows = [
        [case.name, f"{traced:,}", f"{true:,}", percent(error, 3)]
        for (case, traced, true), error in zip(peaks, errors, strict=True)
    ]
    said = (
        f"{len(rows)} cases: mean {100 * mean(sizes):.3f} %, "
        f"worst {percent(max(errors, key=abs), 3)}."
    )
    return f"{said}\n\n{table(('case', 'dry run', 'CPU allocator', 'error'), rows)}"


@dataclass(frozen=True, slots=True)
class Sampled:
    """The formula's error against the dry run for one plan, or why it refuses the plan."""

    plan: FineTunePlan
    error: float | None
    refusal: str


def formula_sample(num_plans: int = NUM_PLANS) -> list[Sampled]:
    """Read plans that were drawn at random in both ways; some two minutes for all of them."""
    with TemporaryDirectory() as folder:
        return [_sampled(plan) for plan in sample(Path(folder), num_plans=num_plans)]


def _sampled(plan: FineTunePlan) -> Sampled:
    try:
        formula = read_formula(plan).peak_allocated_bytes
    except NoFormula as no:
        return Sampled(plan, None, no.reason)
    traced = dry_run(plan).peak_allocated_bytes
    gc.collect()
    return Sampled(plan, formula / traced - 1, "")


def formula_summary(drawn: list[Sampled]) -> str:
    """Return the errors of a sample by method, and why plans of it were refused."""
    by_method: dict[str, list[float | None]] = defaultdict(list)
    for one in drawn:
        by_method[one.plan.method].append(one.error)
    by_method = dict(sorted(by_method.items())) | {"all": [one.error for one in drawn]}
    rows = [
        [
            method,
            str(len(errors)),
            mean_and_worst(errors),
            *(_share_within(errors, limit) for limit in (HALF_A_PERCENT, A_PERCENT)),
            str(errors.count(None)),
        ]
        for method, errors in by_method.items()
    ]
    header = ("method", "plans", "mean (worst)", "within 0.5 %", "within 1 %", "refused")
    refusals = Counter(one.refusal for one in drawn if one.refusal)
    said = "".join(f"\n- {count} x {reason}" for reason, count in refusals.most_common())
    why = f"\n\nRefused, and why:\n{said}" if said else ""
    return f"{len(drawn)} plans, drawn with seed {SEED}.\n\n{table(header, rows)}{why}"


def _share_within(errors: list[float | None], limit: float) -> str:
    known = [error for error in errors if error is not None]
    return f"{sum(abs(error) <= limit for error in known)} of {len(known)}"


def every_architecture() -> str:
    """Return the dry runs of every bundled model_type; some three minutes."""
    return as_markdown(sweep()).strip()
