"""Where the parts of a line chart lie: in percent of its width and height, y pointing down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

Point = tuple[float, float]

_MOST_TICKS = 5
_DIGITS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Series:
    """Named points, in the order of their x."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Line:
    """A series as an SVG's points; ``place`` is its colour and dashes."""

    name: str
    place: int
    points: str


@dataclass(frozen=True, slots=True)
class LineChart:
    """Lines with their axes: ticks at a percentage, each with its label."""

    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_title: str
    mark: tuple[float, str] | None


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a chart: from what to what, on which scale, and how values read."""

    low: float
    high: float
    is_log: bool
    is_whole: bool
    show: Callable[[float], str]

    def place(self, value: float) -> float:
        """Return where a value lies, in percent from the axis's beginning."""
        low, high, at = (self._scaled(one) for one in (self.low, self.high, value))
        return 100 * (at - low) / (high - low) if high > low else 50.0

    def ticks(self) -> list[float]:
        """Return round values within the axis, a handful of them."""
        if not self.is_log:
            ticks = _linear_ticks(self.low, self.high)
            return [one for one in ticks if one.is_integer() or not self.is_whole]
        powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        digits = (1,) if len(powers) > 3 else _DIGITS
        found = [digit * 10.0**power for power in powers for digit in digits]
        inside = [one for one in found if self.low <= one <= self.high]
        return inside[:: ceil(len(inside) / (_MOST_TICKS + 2)) or 1]

    def _scaled(self, value: float) -> float:
        return log10(value) if self.is_log else value


def axis(
    values: Sequence[float],
    show: Callable[[float], str],
    *,
    log: bool = False,
    zero: bool = False,
    whole: bool = False,
) -> Axis:
    """Return the axis that holds values.

    Args:
        values: All that are to be shown; above 0 on a logarithmic axis.
        show: How a value reads.
        log: Whether it is logarithmic.
        zero: Whether it begins at 0.
        whole: Whether only whole numbers are labelled.
    """
    low, high = min(values), max(values)
    if log:
        return Axis(low / 1.15, high * 1.15, is_log=True, is_whole=whole, show=show)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1
    return Axis(0 if zero else low - room, high + room, is_log=False, is_whole=whole, show=show)


def _linear_ticks(low: float, high: float) -> list[float]:
    span = (high - low) / _MOST_TICKS
    power = 10.0 ** floor(log10(span))
    step = next(digit * power for digit in (*_DIGITS, 10) if digit * power >= span)
    return [float(index * step) for index in range(ceil(low / step), floor(high / step) + 1)]


def line_chart(
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    x_title: str,
    mark: tuple[float, str] | None = None,
) -> LineChart:
    """Return the chart of some series, all on the same axes.

    Args:
        series: What to draw; values beyond the axes are left out.
        x: The axis to the right.
        y: The axis upwards.
        x_title: What x is.
        mark: An x to point out, and what it is.
    """
    return LineChart(
        lines=tuple(Line(one.name, place, _points(one, x, y)) for place, one in enumerate(series)),
        x_ticks=tuple((x.place(value), x.show(value)) for value in x.ticks()),
        y_ticks=tuple((100 - y.place(value), y.show(value)) for value in y.ticks()),
        x_title=x_title,
        mark=(x.place(mark[0]), mark[1]) if mark and x.low <= mark[0] <= x.high else None,
    )


def _points(series: Series, x: Axis, y: Axis) -> str:
    inside = [(a, b) for a, b in series.points if x.low <= a <= x.high and y.low <= b <= y.high]
    return " ".join(f"{x.place(a):.2f},{100 - y.place(b):.2f}" for a, b in inside)
