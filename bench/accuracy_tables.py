"""Markdown tables of errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean

from bench.accuracy_rows import Measured, in_short
from bench.accuracy_scores import Score
from reports.words import method_name

GIB = 2**30
NEAR = 0.06
"""A reserved peak that is met within this counts as near."""

_ERRORS = (
    "steps",
    "dry run: allocated",
    "formula: allocated",
    "dry run: reserved",
    "within 6 %",
    "in band",
)


def percent(error: float | None, digits: int = 2) -> str:
    """Return a relative error as text (``-0.03 %``)."""
    return "-" if error is None else f"{100 * error:+.{digits}f} %"


def mean_and_worst(errors: Iterable[float | None]) -> str:
    """Return the mean of the errors' sizes, and the worst of them with its sign."""
    known = [error for error in errors if error is not None]
    if not known:
        return "-"
    return f"{100 * mean(map(abs, known)):.2f} % ({percent(max(known, key=abs))})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, num_words: int = 1) -> str:
    """Return a Markdown table whose first columns hold words and whose others hold numbers."""
    rule = ["---" if column < num_words else "--:" for column in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def error_table(name: str, scores: Iterable[Score], group: Callable[[Score], str]) -> str:
    """Return a line of mean and worst errors for each group of rows, and one for all."""
    groups: dict[str, list[Score]] = defaultdict(list)
    for one in scores:
        groups[group(one)].append(one)
    rows = [[name, *_errors(members)] for name, members in sorted(groups.items())]
    if len(groups) > 1:
        rows.append(["all", *_errors([one for members in groups.values() for one in members])])
    return table([name, *_ERRORS], rows)


def method_and_attention(one: Score) -> str:
    """Return the group of rows with the same method and attention."""
    return f"{method_name(one.method)}, {one.attention}"


def _errors(scores: Sequence[Score]) -> list[str]:
    formula = [one.formula_allocated for one in scores]
    refused = formula.count(None)
    reserved = [one.dry_run_reserved for one in scores if one.dry_run_reserved is not None]
    inside = [one.is_reserved_in_band for one in scores if one.is_reserved_in_band is not None]
    near = sum(abs(error) <= NEAR for error in reserved)
    return [
        str(len(scores)),
        mean_and_worst(one.dry_run_allocated for one in scores),
        mean_and_worst(formula) + (f", refuses {refused}" if refused else ""),
        mean_and_worst(reserved),
        f"{near} of {len(reserved)}" if reserved else "-",
        f"{sum(inside)} of {len(inside)}" if inside else "-",
    ]


def row_table(steps: Iterable[Measured], scores: Mapping[str, Score]) -> str:
    """Return every measured step with what was measured and how far the readings are from it."""
    header = (
        *("row", "method", "plan"),
        *("allocated, GiB", "dry run", "formula"),
        *("reserved, GiB", "dry run", "in band"),
    )
    return table(header, (_row(step, scores[step.id]) for step in steps), num_words=3)


def _row(step: Measured, one: Score) -> list[str]:
    in_band = {None: "-", True: "yes", False: "no"}[one.is_reserved_in_band]
    return [
        f"`{step.id}`",
        method_name(one.method),
        in_short(step.plan),
        f"{step.allocated_bytes / GIB:.3f}",
        percent(one.dry_run_allocated),
        percent(one.formula_allocated) if not one.formula_refusal else "refuses",
        f"{step.reserved_bytes / GIB:.3f}" if step.reserved_bytes else "-",
        percent(one.dry_run_reserved),
        in_band,
    ]
