"""At which volumes one strategy costs less than another, in words."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from advisor.cost_report import CostReport
from reports.units import count


def cheaper_from(
    report: CostReport, best: str, other: str, by: Literal["running", "in_all"]
) -> str:
    """Return in words at which volumes one strategy costs less than another.

    Args:
        report: In whose curves both are.
        best: The strategy that is compared with.
        other: The one that may cost less.
        by: What running costs alone, or with what is paid once.

    Returns:
        The volume from which it does, with a word where it does not throughout; or ``always``,
        ``never``, ``the same``.
    """
    curves = report.curves
    amounts = (curves.running_usd if by == "running" else curves.in_all_usd) if curves else {}
    pairs = [pair for pair in report.break_evens if {pair.one, pair.other} == {best, other}]
    crossings = getattr(pairs[0], by) if pairs else ()
    if not crossings:
        gaps = {
            theirs.compare(mine) for theirs, mine in zip(amounts[other], amounts[best], strict=True)
        }
        if gaps == {Decimal(0)}:
            return "the same"
        return "never" if Decimal(1) in gaps else "always"
    up = [one for one in crossings if one.cheaper_above == other]
    down = [one for one in crossings if one.cheaper_above != other]
    if crossings[0].cheaper_above != other:
        again = " (and again above)" if up else ""
        return f"below {count(down[0].requests_per_month)}{again}"
    return f"{count(up[0].requests_per_month)}{' (not throughout)' if down else ''}"
