"""What each strategy costs: side by side, over two years, by volume, and what it depends on."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from advisor.cost_report import CostReport, StrategyCost, UsdRange
from advisor.workload import Workload
from estimator.cost_ledger import CostInput, LineItem
from reports.blocks import (
    Block,
    Bullets,
    Chart,
    Details,
    Heading,
    Paragraph,
    Span,
    Table,
    Text,
    bullets,
    note,
    right,
    strong,
)
from reports.build import Report
from reports.charts_bars import Amount, range_chart, tornado_chart
from reports.charts_lines import Series, axis, line_chart
from reports.cost_facts import advised, cheapest, worth_drawing
from reports.sections.cost_volumes import axis_usd, break_even
from reports.terminal_cost import short_usd
from reports.units import UNKNOWN, count, usd

_MONTHS_SHOWN = (1, 6, 12, 18, 24)
_TORNADO_SHOWN = 8
_WHEN = {
    "one_time": "once",
    "monthly": "a month",
    "per_request": "a month",
    "days": "days",
    "seconds": "seconds",
}


def blocks(report: Report) -> list[Block]:
    """Return the section; without a workload it says only that there is none."""
    costs = report.costs
    if costs is None:
        text = "The scenario holds no workload, so nothing is known of what a month costs."
        return [Paragraph(text)]
    best, chosen = cheapest(costs), advised(report)
    marks = {best.id: "cheapest"} if best else {}
    if chosen:
        marks[chosen.id] = "advised, cheapest" if chosen.id in marks else "advised"
    return [
        *_workload(report.scenario.workload, costs),
        *bullets([Span("Look out: ", "tight"), one] for one in _warnings(report, costs)),
        _comparison(costs, marks),
        *bullets(_unknown(costs)),
        *_totals(costs, marks),
        *_months(report),
        *break_even(report, chosen or best),
        *_tornado(costs, chosen or best),
        *_accuracy(costs),
        *([_items(chosen)] if chosen else []),
        Details("Every input with its source and date", [_inputs(costs)]),
        Heading("How to read these costs"),
        Bullets(costs.notes),
    ]


def _workload(workload: Workload | None, costs: CostReport) -> Iterator[Block]:
    if workload:
        yield Paragraph(
            f"{workload.requests_per_month:,} requests a month, {workload.input_tokens:,} tokens "
            f"in and {workload.output_tokens:,} out for each, growing by "
            f"{workload.growth_percent_per_month:g} % a month; prices of {costs.today}."
        )


def _warnings(report: Report, costs: CostReport) -> Iterator[str]:
    advice, plan = report.recommendation, report.scenario.plan
    method = advice.recommendation.method if advice else None
    if method and plan and plan.method != method:
        yield (
            f"training is reckoned with method: {plan.method}, as the plan says; advised is "
            f"method: {method}, whose training may fit a smaller GPU. Change the plan to reckon "
            "with it."
        )
    yield from costs.warnings


def _comparison(costs: CostReport, marks: dict[str, str]) -> Table:
    rows: list[list[Text]] = []
    sums = set[int]()
    for place, one in enumerate(costs.strategies):
        days = one.days_to_first_version
        mark = marks.get(one.id)
        if mark:
            sums.add(place)
        rows.append(
            [
                [one.title, note(f" {mark}")] if mark else one.title,
                _p50(one.one_time_range),
                _p50(one.monthly_range),
                _p50(one.per_1000_range),
                _p50(one.total_range),
                _range(one.total_range),
                f"{days.p50:,.0f}" if days else UNKNOWN,
            ]
        )
    head = (
        "Strategy",
        "Once",
        "First month",
        "1,000 requests",
        f"{costs.horizon_months} months",
        "in 8 of 10 draws",
        "Days to a first version",
    )
    return Table("What each strategy costs", head, rows, right(1, 7), frozenset(sums))


def _p50(found: UsdRange | None) -> str:
    return short_usd(found.p50) if found else UNKNOWN


def _range(found: UsdRange | None) -> str:
    return f"{short_usd(found.p10)} to {short_usd(found.p90)}" if found else UNKNOWN


def _unknown(costs: CostReport) -> Iterator[Text]:
    reasons: dict[str, list[str]] = {}
    for one in costs.strategies:
        for reason in one.unknown:
            reasons.setdefault(reason, []).append(one.title)
        if one.available_until:
            end = f"can be begun until {one.available_until}."
            yield [strong(f"{one.title}: "), end]
    for reason, titles in reasons.items():
        who = "Every strategy" if len(titles) == len(costs.strategies) else ", ".join(titles)
        yield [strong(f"{who}, not known: "), reason]


def _totals(costs: CostReport, marks: dict[str, str]) -> Iterator[Block]:
    known = [(one, one.total_range) for one in costs.strategies if one.total_range]
    amounts = [
        Amount(
            f"{one.title}{f' ({marks[one.id]})' if one.id in marks else ''}",
            short_usd(found.p50),
            float(found.p10),
            float(found.p50),
            float(found.p90),
            is_marked=one.id in marks,
        )
        for one, found in sorted(known, key=lambda pair: pair[1].p50)
        if found.p10 > 0
    ]
    if not amounts:
        return
    yield Heading(f"What {costs.horizon_months} months cost in all")
    spoken = "; ".join(f"{one.name} {one.value}" for one in amounts)
    yield Chart(
        "row_chart",
        range_chart(amounts, axis_usd),
        f"Cost over {costs.horizon_months} months by strategy: {spoken}",
        "Each labelled line is ten times the one before it. Half of the random draws lie below the "
        "dot, and eight of ten within the bar.",
    )


def _months(report: Report) -> Iterator[Block]:
    costs, drawn = report.costs, worth_drawing(report)
    if costs is None or not drawn:
        return
    paid = {one.id: [float(amount) for amount in _paid(one)] for one in drawn}
    y = axis([amount for amounts in paid.values() for amount in amounts], axis_usd, zero=True)
    x = axis([0, costs.horizon_months], lambda month: f"{month:g}")
    series = [Series(one.title, list(enumerate(paid[one.id]))) for one in drawn]
    spoken = "; ".join(f"{one.title} {_p50(one.total_range)}" for one in drawn)
    yield Heading("Paid by the end of each month")
    yield Chart(
        "line_chart",
        line_chart(series, x=x, y=y, x_title="month"),
        f"Money paid by the end of each month; after {costs.horizon_months} months: {spoken}",
        "Half of the random draws lie below each line. Month 0 is what is paid once. Drawn are the "
        "advised strategy and the cheapest others that differ.",
    )
    rows = [
        (one.title, *(short_usd(_paid(one)[month]) for month in _MONTHS_SHOWN))
        for one in costs.strategies
        if one.cumulative_p50_by_month
    ]
    head = ("Strategy", *(f"Month {month}" for month in _MONTHS_SHOWN))
    table = Table("Paid by the end of some months", head, rows, right(1, len(head)))
    yield Details("Every strategy in numbers", [table])


def _paid(one: StrategyCost) -> tuple[Decimal, ...]:
    once = one.one_time_range.p50 if one.one_time_range else Decimal(0)
    return (once, *(one.cumulative_p50_by_month or ()))


def _tornado(costs: CostReport, one: StrategyCost | None) -> Iterator[Block]:
    if one is None or one.total_usd is None or not one.tornado:
        return
    bars = one.tornado[:_TORNADO_SHOWN]
    yield Heading(f"What moves the cost of “{one.title}”")
    drawn = [
        (
            bar.label,
            f"{short_usd(bar.low_usd)} to {short_usd(bar.high_usd)}",
            float(bar.low_usd),
            float(bar.high_usd),
        )
        for bar in bars
    ]
    spoken = "; ".join(f"{name} {value}" for name, value, *_ in drawn)
    yield Chart(
        "row_chart",
        tornado_chart(drawn, float(one.total_usd), short_usd(one.total_usd)),
        f"What {costs.horizon_months} months cost where one input is low or high: {spoken}",
        "Each bar moves one input from the low end of its range to the high one; the thin line "
        "has all of them in the middle.",
    )
    inputs = {found.name: found for found in costs.inputs}
    rows = [
        (bar.label, *_ends(inputs.get(bar.input)), short_usd(bar.low_usd), short_usd(bar.high_usd))
        for bar in bars
    ]
    head = ("Input", "Low", "High", "Cost at low", "Cost at high")
    yield Details(
        "These inputs in numbers", [Table("Inputs that move the cost", head, rows, right(1, 5))]
    )


def _ends(found: CostInput | None) -> tuple[str, str]:
    return (plain(found.low), plain(found.high)) if found else (UNKNOWN, UNKNOWN)


def _accuracy(costs: CostReport) -> Iterator[Block]:
    if costs.break_even_accuracy is not None:
        share = f"{costs.break_even_accuracy:.1%}".replace("%", " %")
        text = f"A request pays where {share} of answers are right, and more the more it costs."
        yield Paragraph(text)


def _items(one: StrategyCost) -> Details:
    rows = [
        (item.label, _amount(item), _WHEN[item.when], item.formula or item.unknown)
        for item in one.lines
    ]
    table = Table(f"Items of {one.title}", ("Item", "Amount", "", "Formula"), rows, frozenset({1}))
    return Details(f"Every item of “{one.title}” with its formula", [table])


def _amount(item: LineItem) -> str:
    if item.usd is None:
        return UNKNOWN
    if item.when == "seconds":
        return f"{item.usd:.3f}"
    return f"{item.usd:,.1f}" if item.when == "days" else usd(item.usd)


def _inputs(costs: CostReport) -> Table:
    rows: list[list[Text]] = [
        [
            one.label,
            f"{plain(one.mid)} {one.unit}",
            f"{plain(one.low)} to {plain(one.high)}" if one.is_range else "",
            one.basis,
            one.source,
            str(one.checked_at or ""),
        ]
        for one in costs.inputs
    ]
    head = ("Input", "Value", "Range", "Basis", "Source", "Date")
    return Table("Inputs of the costs", head, rows, frozenset({1, 2}))


def plain(value: Decimal) -> str:
    """Return a quantity of any unit, in few digits."""
    if abs(value) >= 10**6:
        return count(round(value)).replace(" ", "")
    return f"{value.normalize():,f}" if value == value.to_integral_value() else f"{value:.4g}"
