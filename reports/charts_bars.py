"""Where the parts of charts with one row for each thing lie, in percent of their width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log10


@dataclass(frozen=True, slots=True)
class Row:
    """One row: from ``start`` to ``end``, with a ``dot`` somewhere between where there is one."""

    name: str
    value: str
    start: float
    end: float
    dot: float | None = None
    is_faint: bool = False
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class RowChart:
    """Rows, and the vertical lines behind them."""

    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Amount:
    """A thing's amount with its range."""

    name: str
    value: str
    low: float
    likely: float
    high: float
    is_marked: bool = False


def range_chart(amounts: Sequence[Amount], show: Callable[[float], str]) -> RowChart:
    """Return dots with their ranges on a logarithmic scale; amounts are above 0."""
    low = log10(min(one.low for one in amounts)) - 0.05
    high = log10(max(one.high for one in amounts)) + 0.05

    def place(value: float) -> float:
        return 100 * (log10(value) - low) / (high - low)

    rows = tuple(
        Row(
            one.name,
            one.value,
            place(one.low),
            place(one.high),
            dot=place(one.likely),
            is_marked=one.is_marked,
        )
        for one in amounts
    )
    powers = [10.0**power for power in range(-6, 16) if low <= power <= high]
    ticks = tuple((place(value), show(value)) for value in powers)
    return RowChart(rows, ticks)


def tornado_chart(
    bars: Sequence[tuple[str, str, float, float]], middle: float, middle_name: str
) -> RowChart:
    """Return a bar for each input, from the lower amount to the higher.

    Args:
        bars: Name, value in words, and two amounts each.
        middle: The amount with every input in its middle.
        middle_name: What to call it.
    """
    ends = [end for _, _, one, other in bars for end in (one, other)]
    low, high = min([middle, *ends]), max([middle, *ends])

    def place(value: float) -> float:
        return 2 + 96 * (value - low) / (high - low) if high > low else 50.0

    rows = tuple(
        Row(name, value, place(min(one, other)), place(max(one, other)))
        for name, value, one, other in bars
    )
    return RowChart(rows, ((place(middle), middle_name),))


def score_chart(scores: Sequence[tuple[str, str, float, bool]]) -> RowChart:
    """Return a bar for each score, from 0 to the left or right.

    Args:
        scores: Name, score in words, score, and whether it is out of the question.
    """
    low = min(0.0, *(score for *_, score, _ in scores))
    high = max(0.0, *(score for *_, score, _ in scores))

    def place(value: float) -> float:
        return 100 * (value - low) / ((high - low) or 1)

    rows = tuple(
        Row(name, value, place(min(score, 0)), place(max(score, 0)), is_faint=is_out)
        for name, value, score, is_out in scores
    )
    return RowChart(rows, ((place(0), ""),))
