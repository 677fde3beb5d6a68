"""What the strategies of a scenario cost: the result, complete enough to redo and to chart."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from estimator.cost_ledger import CostInput, LineItem
from estimator.records import Record


class UsdRange(Record):
    """An amount over random draws: one in ten lies below ``p10``, half below ``p50``."""

    p10: Decimal
    p50: Decimal
    p90: Decimal


class DayRange(Record):
    """Days: with every input in its middle (``likely``), and percentiles over random draws."""

    likely: Decimal
    p10: Decimal
    p50: Decimal
    p90: Decimal


class TornadoBar(Record):
    """What the 24 months cost where one input is low or high and all others are in the middle."""

    input: str
    label: str
    low_usd: Decimal
    high_usd: Decimal

    @property
    def spread_usd(self) -> Decimal:
        """How far the input alone moves the cost."""
        return abs(self.high_usd - self.low_usd)


class StrategyCost(Record):
    """What one strategy costs. An amount is None where ``unknown`` says why.

    There are two middles. A sum of items takes the middle of every input, and is too low where
    ranges reach further up than down; a range's ``p50`` is what half of the random draws exceed.
    What is shown beside a range is its ``p50``.

    Attributes:
        id: Its key.
        title: What to call it.
        strategy: The advisor's strategy that it is a form of.
        lines: Every item with its formula, its inputs and its amount; those of ``days`` are days.
        one_time_usd: The sum of what is paid once.
        monthly_usd: The sum of the first month.
        usd_per_1000_requests: The first month's, for a thousand of its requests.
        total_usd: One-time and every month of the horizon.
        monthly_usd_by_month: Each month of the horizon.
        cumulative_usd_by_month: What has been paid by the end of each month.
        cumulative_p50_by_month: The same, over random draws: half of them lie below.
        days_to_first_version: Work, labels and training, one after another.
        one_time_range: Over random draws; so are the next three.
        available_until: The last day on which it can be begun, None where none is announced.
        tornado: What each uncertain input alone does to ``total_usd``, the strongest first.
        break_even_accuracy: The share of right answers from which a request pays.
        unknown: Why amounts are None, one sentence each.
    """

    id: str
    title: str
    strategy: str
    lines: tuple[LineItem, ...]
    one_time_usd: Decimal | None
    monthly_usd: Decimal | None
    usd_per_1000_requests: Decimal | None
    total_usd: Decimal | None
    monthly_usd_by_month: tuple[Decimal, ...] | None
    cumulative_usd_by_month: tuple[Decimal, ...] | None
    days_to_first_version: DayRange | None
    one_time_range: UsdRange | None
    monthly_range: UsdRange | None
    total_range: UsdRange | None
    per_1000_range: UsdRange | None = None
    cumulative_p50_by_month: tuple[Decimal, ...] | None = None
    available_until: date | None = None
    tornado: tuple[TornadoBar, ...] = ()
    break_even_accuracy: Decimal | None = None
    unknown: tuple[str, ...] = ()


class Crossing(Record):
    """At this many requests a month two strategies cost the same; above it ``cheaper_above``."""

    requests_per_month: int
    cheaper_above: str


class BreakEven(Record):
    """Where two strategies cost the same.

    Attributes:
        one: One strategy's id.
        other: The other's.
        cheaper_at_first: The cheaper one at the fewest requests.
        running: By what a month costs, leaving out what is paid once.
        in_all: With what is paid once spread over the horizon.
    """

    one: str
    other: str
    cheaper_at_first: str
    running: tuple[Crossing, ...]
    in_all: tuple[Crossing, ...]


class VolumeCurves(Record):
    """What a month costs by requests, for charts over a logarithmic axis."""

    requests_per_month: tuple[int, ...]
    running_usd: dict[str, tuple[Decimal, ...]]
    in_all_usd: dict[str, tuple[Decimal, ...]]


class CostReport(Record):
    """Every strategy's cost over a workload.

    Attributes:
        title: The scenario's.
        today: The day for which it was reckoned; each price in ``inputs`` has a day of its own.
        horizon_months: How many months ``total_usd`` covers.
        draws: How many random draws the ranges rest on.
        seed: What they begin with; the same seed draws the same.
        requests_by_month: The requests of each month, grown.
        inputs: Every quantity that an item depends on, with range and source.
        strategies: In order of effort.
        break_evens: For each two strategies whose months are known and which cross.
        curves: None where nothing is known of any month.
        break_even_accuracy: Without what a request costs; None where no values were given.
        warnings: Old prices, offers that end, plans that do not fit.
        notes: How to read it.
    """

    title: str
    today: date
    horizon_months: int
    draws: int
    seed: int
    requests_by_month: tuple[int, ...] | None
    inputs: tuple[CostInput, ...]
    strategies: tuple[StrategyCost, ...]
    break_evens: tuple[BreakEven, ...]
    curves: VolumeCurves | None
    break_even_accuracy: Decimal | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def price_days(self) -> tuple[date, date] | None:
        """The oldest and the newest day of the quoted prices; None where none has a day."""
        prices = [one for one in self.inputs if one.basis == "quoted" and "USD" in one.unit]
        days = [one.checked_at for one in prices if one.checked_at is not None]
        return (min(days), max(days)) if days else None
