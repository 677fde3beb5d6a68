"""What strategies cost, as rows of a report's long table."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from advisor.cost_report import CostReport, DayRange, StrategyCost, UsdRange
from reports.csv_row import Row

_UNITS = {"days": "days", "seconds": "seconds"}


def cost_rows(costs: CostReport) -> Iterator[Row]:
    """Yield amounts, ranges, months, crossings, what moves them, and every input."""
    for month, requests in enumerate(costs.requests_by_month or (), start=1):
        yield Row("requests", f"month {month}", "requests", requests, "requests", "scenario")
    for one in costs.strategies:
        yield from _strategy(one, costs.today)
    for pair in costs.break_evens:
        for name, crossings in (("running", pair.running), ("in_all", pair.in_all)):
            for found in crossings:
                item, key = f"{pair.one} / {pair.other}", f"{name}.cheaper above: "
                key += found.cheaper_above
                requests = found.requests_per_month
                yield Row("break-even", item, key, requests, "requests a month", "formula")
    for one in costs.inputs:
        for end in ("low", "mid", "high"):
            yield Row(
                "cost input",
                one.label,
                end,
                getattr(one, end),
                one.unit,
                one.basis,
                one.source,
                one.checked_at,
            )
    for number, text in enumerate(costs.warnings, start=1):
        yield Row("warning", "costs", str(number), text)


def _strategy(one: StrategyCost, today: date) -> Iterator[Row]:
    amounts = {
        "one_time": one.one_time_usd,
        "first_month": one.monthly_usd,
        "per_1000_requests": one.usd_per_1000_requests,
        "in_all": one.total_usd,
    }
    for key, amount in amounts.items():
        yield Row("cost", one.id, key, amount, "USD", "formula", one.title, today)
    ranges = {
        "one_time": one.one_time_range,
        "first_month": one.monthly_range,
        "per_1000_requests": one.per_1000_range,
        "in_all": one.total_range,
    }
    for key, found in ranges.items():
        if found:
            yield from _range(one, key, found, "USD", today)
    if one.days_to_first_version:
        yield from _range(one, "first_version", one.days_to_first_version, "days", today)
    for month, amount in enumerate(one.cumulative_usd_by_month or (), start=1):
        key = f"paid_by_month.{month}"
        yield Row("cost", one.id, key, amount, "USD", "formula", one.title, today)
    for month, amount in enumerate(one.cumulative_p50_by_month or (), start=1):
        key = f"paid_by_month.{month}.p50"
        yield Row("cost", one.id, key, amount, "USD", "random draws", one.title, today)
    for line in one.lines:
        unit = _UNITS.get(line.when, "USD")
        source = f"{line.formula or line.unknown} ({line.when})"
        yield Row("cost item", one.id, line.name, line.usd, unit, "formula", source, today)
    for bar in one.tornado:
        for end, amount in (("low", bar.low_usd), ("high", bar.high_usd)):
            yield Row("tornado", one.id, f"{bar.input}.{end}", amount, "USD", "formula", bar.label)
    for number, text in enumerate(one.unknown, start=1):
        yield Row("unknown", one.id, str(number), text)


def _range(
    one: StrategyCost, key: str, found: UsdRange | DayRange, unit: str, today: date
) -> Iterator[Row]:
    for name, value in found.model_dump().items():
        yield Row("cost", one.id, f"{key}.{name}", value, unit, "random draws", one.title, today)
