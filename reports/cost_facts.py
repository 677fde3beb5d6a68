"""Which of a report's costs matter to its reader."""

from __future__ import annotations

from decimal import Decimal

from advisor.cost_report import CostReport, StrategyCost
from reports import terminal_cost
from reports.build import Report

_MOST_CURVES = 5


def cheapest(costs: CostReport | None) -> StrategyCost | None:
    """Return the strategy that costs least in all, None where no total is known."""
    return terminal_cost.cheapest(costs) if costs else None


def advised(report: Report) -> StrategyCost | None:
    """Return the cost of the advised strategy, in the form that trains as advised."""
    if report.recommendation is None or report.costs is None:
        return None
    choice = report.recommendation.recommendation
    forms = [one for one in report.costs.strategies if one.strategy == choice.strategy]
    in_4_bits = [one for one in forms if one.id.endswith("_4bit")]
    found = in_4_bits if choice.method == "qlora" and in_4_bits else forms
    return found[0] if found else None


def worth_drawing(report: Report) -> list[StrategyCost]:
    """Return a few strategies whose months are known: the advised one, then the cheapest.

    Of several that cost the same in every month the first is drawn.
    """
    if report.costs is None:
        return []
    known = [one for one in report.costs.strategies if one.cumulative_p50_by_month]
    known.sort(key=lambda one: in_all(one) or 0)
    first = advised(report)
    chosen = [first] if first in known and first else []
    for one in known:
        curves = [other.cumulative_usd_by_month for other in chosen]
        if one.cumulative_usd_by_month not in curves and len(chosen) < _MOST_CURVES:
            chosen.append(one)
    return chosen


def in_all(one: StrategyCost) -> Decimal | None:
    """Return what half of the draws exceed over the horizon, None where it is not known."""
    return one.total_range.p50 if one.total_range else None
