"""Costs as Rich renderables: readable at 80 columns, and without colour."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from advisor.cost_report import CostReport, StrategyCost, UsdRange
from estimator.cost_ledger import CostInput, LineItem
from reports.break_even_words import cheaper_from
from reports.units import UNKNOWN, count, usd

_BARS = "▁▂▃▄▅▆▇█"
_TORNADO_SHOWN = 6
_MONTHS_SHOWN = (1, 6, 12, 24)
_LEGEND = (
    "Amounts and days: half of the random draws lie below (p50). once: before the first version; "
    "per 1k: 1,000 requests of the first month; p10-p90: 24 months in eight of ten draws; days: "
    "until a first version, where one person works alone."
)
_MIDDLES = (
    "Items take the middle of every input. Where ranges reach further up than down, their sum is "
    "lower than what half of the draws exceed (p50)."
)
_BREAK_EVENS = (
    "Every input in its middle; 1 to 10 billion requests. Further GPUs come in steps, so one that "
    "costs less may cost more again: not throughout."
)
_WHEN = {
    "one_time": "once",
    "monthly": "a month",
    "per_request": "a month",
    "days": "days",
    "seconds": "seconds",
}


def costs(report: CostReport) -> RenderableType:
    """Show what every strategy costs, where they break even, and what matters."""
    best = cheapest(report)
    return Group(
        Text(report.title, style="bold"),
        _workload(report),
        _comparison(report),
        Text(_LEGEND, style="dim"),
        *_unknown(report),
        _months(report),
        *_break_evens(report, best),
        *([_tornado(best)] if best and best.tornado else []),
        *_accuracy(report),
        *(Text(f"! {one}", style="yellow") for one in report.warnings),
        *(Text(one, style="dim") for one in report.notes),
        Text("--strategy ID shows each item with its formula and sources.", style="dim"),
    )


def cheapest(report: CostReport) -> StrategyCost | None:
    """Return the strategy whose p50 over the horizon is least; None where no total is known."""
    known = [(one.total_range.p50, one) for one in report.strategies if one.total_range]
    return min(known, key=lambda pair: pair[0], default=(None, None))[1]


def _workload(report: CostReport) -> RenderableType:
    if report.requests_by_month is None:
        return Text("No workload: only what is paid once is known.")
    first, last = report.requests_by_month[0], report.requests_by_month[-1]
    grown = f", {count(last)} in month {report.horizon_months}" if last != first else ""
    return Text(f"{count(first)} requests in the first month{grown}{_price_days(report)}")


def _price_days(report: CostReport) -> str:
    if report.price_days is None:
        return ""
    oldest, newest = report.price_days
    return f"; prices of {oldest}" + (f" to {newest}" if newest != oldest else "")


def _table(*right: str, first: str = "strategy", wraps: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=not wraps)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _comparison(report: CostReport) -> RenderableType:
    table = _table("once", "a month", "per 1k", "24 mo.", "p10-p90", "days,\nalone")
    for one in report.strategies:
        days = one.days_to_first_version
        table.add_row(
            one.id,
            _p50(one.one_time_range),
            _p50(one.monthly_range),
            _p50(one.per_1000_range),
            _p50(one.total_range),
            _range(one.total_range),
            f"{days.p50:,.0f}" if days else "-",
        )
    return table


def _usd(amount: Decimal | None) -> str:
    return "-" if amount is None else short_usd(amount)


def short_usd(amount: Decimal) -> str:
    """Return dollars in few characters (``$12.3k``, ``$1.23M``; below 1,000 as usual)."""
    for scale, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if abs(amount) >= scale:
            return (
                f"${amount / scale:.3g}{letter}"
                if abs(amount) < 999 * scale
                else (f"${amount / scale:,.0f}{letter}")
            )
    return usd(amount)


def _p50(found: UsdRange | None) -> str:
    return short_usd(found.p50) if found else "-"


def _range(found: UsdRange | None) -> str:
    return f"{short_usd(found.p10)}-{short_usd(found.p90)[1:]}" if found else "-"


def _unknown(report: CostReport) -> list[RenderableType]:
    reasons: dict[str, list[str]] = {}
    for one in report.strategies:
        for reason in one.unknown:
            reasons.setdefault(reason, []).append(one.id)
    lines = []
    for reason, ids in reasons.items():
        who = "all" if len(ids) == len(report.strategies) else ", ".join(ids)
        lines.append(Text(f"- {who}: {reason}"))
    return [*lines, Text("")] if lines else []


def _months(report: CostReport) -> RenderableType:
    known = [one for one in report.strategies if one.cumulative_p50_by_month]
    if not known:
        return Text("")
    table = _table(*(f"month {month}" for month in _MONTHS_SHOWN), first="paid by the end of (p50)")
    table.add_column("1, 3 … 23", no_wrap=True)
    for one in known:
        paid = one.cumulative_p50_by_month or ()
        table.add_row(
            one.id,
            *(short_usd(paid[month - 1]) for month in _MONTHS_SHOWN),
            sparkline((one.monthly_usd_by_month or ())[::2]),
        )
    return table


def sparkline(amounts: Sequence[Decimal]) -> str:
    """Return a bar for each amount, from nothing to the largest."""
    most = max(amounts, default=Decimal(0))
    if not most:
        return _BARS[0] * len(amounts)
    return "".join(_BARS[round(amount / most * (len(_BARS) - 1))] for amount in amounts)


def _break_evens(report: CostReport, best: StrategyCost | None) -> list[RenderableType]:
    """Return from how many requests another strategy costs less than the cheapest one."""
    if best is None or report.curves is None:
        return []
    table = _table("running costs alone", "with what is paid once", first=f"less than {best.id}")
    reckoned = list(report.curves.in_all_usd)
    cells = {
        one.id: (
            cheaper_from(report, best.id, one.id, "running"),
            cheaper_from(report, best.id, one.id, "in_all"),
        )
        for one in report.strategies
        if one.id in reckoned and one.id != best.id
    }
    if all(cell in ("never", "the same") for row in cells.values() for cell in row):
        least = f"At every volume {best.id} costs least of those reckoned"
        return [Text(f"{least} ({', '.join(reckoned)}).")]
    for one in report.strategies:
        if one.id != best.id:
            table.add_row(one.id, *cells.get(one.id, ("not reckoned",) * 2))
    title = "The requests a month at which another strategy first costs less"
    return [Text(title, style="bold"), Text(_BREAK_EVENS, style="dim"), table]


def _tornado(best: StrategyCost) -> RenderableType:
    table = _table("low", "high", first=f"24 months of {best.id}, all in the middle but")
    table.add_row("nothing", *(_usd(best.total_usd),) * 2)
    for bar in best.tornado[:_TORNADO_SHOWN]:
        table.add_row(bar.label, short_usd(bar.low_usd), short_usd(bar.high_usd))
    return table


def _accuracy(report: CostReport) -> list[RenderableType]:
    if report.break_even_accuracy is None:
        return []
    share = f"{report.break_even_accuracy:.1%}".replace("%", " %")
    words = f"A request pays where {share} of answers are right, and more the more it costs."
    return [Text(words), Text("")]


def items(report: CostReport, strategy: str) -> RenderableType:
    """Show every item of one strategy: amount, formula, inputs with their sources."""
    one = next(one for one in report.strategies if one.id == strategy)
    table = _table("amount", "", first="item", wraps=True)
    table.add_column("formula")
    for item in one.lines:
        table.add_row(item.label, _amount(item), _WHEN[item.when], item.formula)
    used = {name for item in one.lines for name in item.inputs}
    return Group(
        Text(f"{one.title} ({one.id})", style="bold"),
        table,
        _sums(one),
        Text(_MIDDLES, style="dim"),
        *(Text(f"- {reason}", style="yellow") for reason in one.unknown),
        *_pairs(report, strategy),
        _inputs([source for source in report.inputs if source.name in used]),
    )


def _sums(one: StrategyCost) -> RenderableType:
    """Show the sums of items beside the percentiles of the draws."""
    table = _table("sum of items", "p50 of draws", "p10-p90", first="in all")
    for name, amount, found in (
        ("once", one.one_time_usd, one.one_time_range),
        ("a month", one.monthly_usd, one.monthly_range),
        ("24 months", one.total_usd, one.total_range),
    ):
        table.add_row(name, _usd(amount), _p50(found), _range(found))
    return table


def _pairs(report: CostReport, strategy: str) -> list[RenderableType]:
    """Show where a strategy and each other one cost the same, with what is paid once."""
    table = _table("requests a month", first=f"{strategy} and")
    table.add_column("cheaper above")
    for pair in report.break_evens:
        if strategy not in (pair.one, pair.other):
            continue
        for crossing in pair.in_all:
            other = pair.other if pair.one == strategy else pair.one
            table.add_row(other, count(crossing.requests_per_month), crossing.cheaper_above)
    title = Text("Where it costs the same, what is paid once spread over 24 months", style="bold")
    return [title, table] if table.row_count else []


def _amount(item: LineItem) -> str:
    if item.usd is None:
        return UNKNOWN
    if item.when == "seconds":
        return f"{item.usd:.3f}"
    return f"{item.usd:,.1f}" if item.when == "days" else usd(item.usd)


def _inputs(found: Sequence[CostInput]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("input", "value", "where from"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for one in found:
        value = _plain(one.mid)
        if one.is_range:
            value = f"{value} ({_plain(one.low)} to {_plain(one.high)})"
        dated = f", {one.checked_at}" if one.checked_at else ""
        source = one.source if one.source.startswith(one.basis) else f"{one.basis}: {one.source}"
        table.add_row(one.label, f"{value} {one.unit}", f"{source}{dated}")
    return table


def _plain(value: Decimal) -> str:
    if abs(value) >= 10**6:
        return count(round(value)).replace(" ", "")
    return f"{value.normalize():,f}" if value == value.to_integral_value() else f"{value:.4g}"
