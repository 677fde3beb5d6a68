"""Where strategies break even: what a month costs by how many requests it has."""

from __future__ import annotations

from collections.abc import Iterator

from advisor.cost_report import CostReport, StrategyCost
from reports.blocks import Block, Chart, Heading, Paragraph, Table
from reports.build import Report
from reports.charts_lines import Series, axis, line_chart
from reports.cost_facts import worth_drawing
from reports.units import count

_DECADES_AROUND = 2
"""How far around the scenario's own volume the chart goes, in powers of ten."""


def axis_usd(value: float) -> str:
    """Return round dollars as an axis shows them (``$50k``, ``$1.2M``)."""
    return f"${_axis_number(value)}"


def _axis_number(value: float) -> str:
    """Return a round number without needless digits (``50k``, ``1.2M``)."""
    for scale, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:g}{letter}"
    return f"{value:g}"


def break_even(report: Report, one: StrategyCost | None) -> Iterator[Block]:
    """Yield the cost of a month by requests, and at how many of them others cost less than one."""
    costs = report.costs
    if costs is None or one is None or costs.curves is None:
        return
    yield Heading("Where they break even")
    yield from _volume_chart(report, costs)
    rows = [
        (
            other.title,
            *(_where_cheaper(costs, other.id, one.id, spread) for spread in (False, True)),
        )
        for other in costs.strategies
        if other.id != one.id and {one.id, other.id} <= costs.curves.in_all_usd.keys()
    ]
    if rows:
        yield Paragraph(
            f"At how many requests a month each other strategy costs less than “{one.title}”:"
        )
        head = ("Strategy", "Running costs alone", "With what is paid once")
        yield Table(f"Where others cost less than {one.title}", head, rows)


def _where_cheaper(costs: CostReport, one: str, other: str, spread: bool) -> str:
    """Return at which requests a month one strategy costs less than another, in words.

    Args:
        costs: Whose curves and crossings are read.
        one: The strategy asked about.
        other: The one that it is laid beside.
        spread: Whether what is paid once counts, spread over the horizon.
    """
    curves = costs.curves
    pair = next((two for two in costs.break_evens if {two.one, two.other} == {one, other}), None)
    crossings = (pair.in_all if spread else pair.running) if pair else ()
    if crossings:
        is_cheaper = crossings[0].cheaper_above != one
    else:
        amounts = (curves.in_all_usd if spread else curves.running_usd) if curves else {}
        is_cheaper = amounts[one][0] < amounts[other][0]
        return "always" if is_cheaper else "never"
    ranges, start = [], ""
    for found in crossings:
        at = count(found.requests_per_month)
        if is_cheaper:
            ranges.append(f"{start} to {at}" if start else f"below {at}")
        start, is_cheaper = at, found.cheaper_above == one
    if is_cheaper:
        ranges.append(f"above {start}")
    return "; ".join(ranges)


def _volume_chart(report: Report, costs: CostReport) -> Iterator[Block]:
    curves, drawn = costs.curves, worth_drawing(report)
    if curves is None or not drawn:
        return
    here = costs.requests_by_month[0] if costs.requests_by_month else 0
    middle = here or 10_000
    low, high = middle / 10**_DECADES_AROUND, middle * 10**_DECADES_AROUND
    series = [
        Series(
            one.title,
            [
                (float(requests), float(amount))
                for requests, amount in zip(
                    curves.requests_per_month, curves.in_all_usd[one.id], strict=True
                )
                if low <= requests <= high and amount > 0
            ],
        )
        for one in drawn
    ]
    values = [amount for one in series for _, amount in one.points]
    if not values:
        return
    yield Chart(
        "line_chart",
        line_chart(
            series,
            x=axis([low, high], _axis_number, log=True),
            y=axis(values, axis_usd, log=True),
            x_title="requests a month",
            mark=(here, "this scenario") if here else None,
        ),
        "Cost of a month by requests a month; where two lines cross the strategies cost the same, "
        "as the table below says",
        f"A month with what is paid once spread over {costs.horizon_months} months, every input in "
        "its middle. Both axes are logarithmic.",
    )
