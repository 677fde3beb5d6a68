"""How far the formula and the dry run are from what was measured on GPUs.

    python bench/accuracy.py [--group TEXT] [--json FILE]

Scores the published runs of bench/published and the own ones of bench/results, group by group:
mean and worst error of the allocated peak, and of the reserved one where it was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan, parse_plan
from trainer.launch import dry_run

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Measured:
    """One training step that somebody measured."""

    id: str
    group: str
    plan: FineTunePlan
    allocated_bytes: int
    reserved_bytes: int | None


@dataclass(frozen=True, slots=True)
class Score:
    """Relative errors of both readings against one measured step; None where there is none."""

    id: str
    group: str
    dry_run_allocated: float
    dry_run_reserved: float | None
    formula_allocated: float | None
    formula_refusal: str


def published() -> Iterator[Measured]:
    """Yield the steps that others published."""
    for row in _lines(HERE / "published" / "runs.jsonl"):
        model = HERE / "published" / "models" / row["plan"]["model"]
        yield Measured(
            id=row["id"],
            group=row["group"],
            plan=parse_plan(row["plan"] | {"model": str(model)}, name=row["id"]),
            allocated_bytes=row["peak_allocated_bytes"],
            reserved_bytes=row["peak_reserved_bytes"],
        )


def own() -> Iterator[Measured]:
    """Yield the steps that bench/gpu.py measured."""
    for path in sorted((HERE / "results").glob("*.jsonl")):
        for row in _lines(path):
            result = row["result"]
            if result["measured"] is None:
                continue
            yield Measured(
                id=row["run"],
                group=f"{result['device_name']} {result['plan']['method']}",
                plan=parse_plan(result["plan"], name=row["run"]),
                allocated_bytes=result["measured"]["peak_allocated_bytes"],
                reserved_bytes=result["measured"]["peak_reserved_bytes"],
            )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def score(step: Measured) -> Score:
    """Read a measured step in both ways."""
    formula, refusal = None, ""
    try:
        peak = read_formula(step.plan).peak_allocated_bytes
        formula = peak / step.allocated_bytes - 1
    except NoFormula as no:
        refusal = no.reason
    dry = dry_run(step.plan)
    reserved = None
    if step.reserved_bytes and dry.peak_reserved_bytes:
        reserved = dry.peak_reserved_bytes / step.reserved_bytes - 1
    allocated = dry.peak_allocated_bytes / step.allocated_bytes - 1
    return Score(step.id, step.group, allocated, reserved, formula, refusal)


def summary(scores: list[Score]) -> str:
    """Return mean and worst errors, a line per group."""
    groups: dict[str, list[Score]] = defaultdict(list)
    for one in scores:
        groups[one.group].append(one)
    lines = [
        f"{'group':26} runs  dry run: allocated       reserved                formula: allocated"
    ]
    for name, members in sorted(groups.items()):
        lines.append(
            f"{name:26} {len(members):4}  "
            f"{_errors([one.dry_run_allocated for one in members]):24}"
            f"{_errors([one.dry_run_reserved for one in members]):24}"
            f"{_errors([one.formula_allocated for one in members])}"
        )
    return "\n".join(lines)


def _errors(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    worst = max(known, key=abs)
    return f"{mean(map(abs, known)):.2%} (worst {worst:+.2%})"


def main() -> None:
    """Score every measured step and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", default="", help="only groups whose name holds this text")
    parser.add_argument("--json", type=Path, help="write every score to this file, one a line")
    arguments = parser.parse_args()
    scores = []
    for step in (*published(), *own()):
        if arguments.group in step.group:
            print(f"reading {step.id}", file=sys.stderr)
            scores.append(score(step))
    if arguments.json:
        lines = [json.dumps(asdict(one)) + "\n" for one in scores]
        arguments.json.write_text("".join(lines), encoding="utf-8")
    print(summary(scores))


if __name__ == "__main__":
    main()
