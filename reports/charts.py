"""Where the parts of the memory chart and of the decision map lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advisor.answers import Answers
from advisor.regions import decision_regions
from advisor.rules import AXIS_MAX, Axis
from estimator.estimate import COMPONENTS, GpuFit, MemoryEstimate, judged_gpus

_NARROW = 330
"""Width of a chart on a phone, in CSS pixels: not even there do labels meet."""

_CHARACTER = 6.2
"""Width of a character of a chart's small text, in CSS pixels, on the wide side."""

ROW_HEIGHT = 46
"""Of a bar with its name above it, in CSS pixels."""

LABEL_HEIGHT = 17
"""Of a row of labels, in CSS pixels."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One component of a bar, in percent of the chart's width."""

    name: str
    x: float
    width: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One estimate as a stacked bar, ending with what the allocator and context add.

    ``end`` is in percent of the chart's width, ``y`` in CSS pixels.
    """

    estimate: MemoryEstimate
    segments: tuple[Segment, ...]
    end: float
    y: float


@dataclass(frozen=True, slots=True)
class CapacityLine:
    """A memory size that GPUs come in, at ``x`` percent; its label stands in ``row``."""

    x: float
    memory_bytes: int
    names: tuple[str, ...]
    row: int
    anchor: str

    @property
    def label(self) -> str:
        """What the line is called."""
        return f"{self.memory_bytes / 2**30:.0f} GiB"


@dataclass(frozen=True, slots=True)
class MemoryChart:
    """Stacked bars with the memory of GPUs as lines; ``height`` is in CSS pixels."""

    bars: tuple[Bar, ...]
    lines: tuple[CapacityLine, ...]
    legend: tuple[str, ...]
    height: float

    @property
    def line_names(self) -> str:
        """Which GPUs each line stands for."""
        return "; ".join(f"{one.label}: {', '.join(one.names)}" for one in self.lines)


def memory_chart(estimates: Sequence[MemoryEstimate]) -> MemoryChart:
    """Return the chart of several estimates, on one scale.

    Lines are drawn for the GPUs that the estimates were judged against, up to the first that
    holds the largest of them.
    """
    longest = max(one.comfortable_need_bytes for one in estimates)
    fits = _distinct(judged_gpus(estimates))
    shown = [fit for fit in fits if fit[0] < longest] + [f for f in fits if f[0] >= longest][:1]
    scale = 100 / (max([longest, *(memory for memory, _ in shown)]) * 1.04)
    lines = _lines(shown, scale)
    top = LABEL_HEIGHT * (1 + max((line.row for line in lines), default=-1)) + 8
    bars = [
        Bar(
            estimate=one,
            segments=_segments(one, scale),
            end=one.smallest_need_bytes * scale,
            y=top + index * ROW_HEIGHT,
        )
        for index, one in enumerate(estimates)
    ]
    names = {segment.name for bar in bars for segment in bar.segments}
    return MemoryChart(
        bars=tuple(bars),
        lines=lines,
        legend=tuple(name for name in (*COMPONENTS, "context") if name in names),
        height=top + len(bars) * ROW_HEIGHT,
    )


def _segments(estimate: MemoryEstimate, scale: float) -> tuple[Segment, ...]:
    sizes = {name: estimate.components_bytes.get(name) for name in COMPONENTS}
    parts = [(name, size) for name, size in sizes.items() if size]
    parts.append(("context", estimate.smallest_need_bytes - estimate.peak_allocated_bytes))
    segments, start = [], 0
    for name, size in parts:
        segments.append(Segment(name, start * scale, size * scale, size))
        start += size
    return tuple(segments)


def _distinct(fits: Sequence[GpuFit]) -> list[tuple[int, tuple[str, ...]]]:
    """GPUs of the same nominal size share a line: their true sizes differ by less than 3 %."""
    groups: list[tuple[int, tuple[str, ...]]] = []
    for fit in sorted(fits, key=lambda one: one.memory_bytes):
        if groups and fit.memory_bytes < groups[-1][0] * 1.03:
            memory, names = groups[-1]
            groups[-1] = (memory, (*names, fit.name))
        else:
            groups.append((fit.memory_bytes, (fit.name,)))
    return groups


def _lines(shown: Sequence[tuple[int, tuple[str, ...]]], scale: float) -> tuple[CapacityLine, ...]:
    """Lay each label in the first row where it does not touch another, even on a phone."""
    lines, ends = [], list[float]()
    for memory, names in shown:
        x = memory * scale
        length = len(f"{memory / 2**30:.0f} GiB") * _CHARACTER / _NARROW * 100
        anchor = "start" if x + length <= 100 else "end"
        start = x if anchor == "start" else x - length
        row = next((i for i, end in enumerate(ends) if end + 2 < start), len(ends))
        ends[row : row + 1] = [start + length]
        lines.append(CapacityLine(x, memory, names, row, anchor))
    return tuple(lines)


@dataclass(frozen=True, slots=True)
class Cell:
    """A run of equal cells in one row of the decision map, in percent of its side."""

    strategy: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class DecisionMap:
    """Which strategy wins where, and where this scenario lies; y points down."""

    cells: tuple[Cell, ...]
    strategies: tuple[str, ...]
    x: float
    y: float


def decision_map(answers: Answers, axes: dict[Axis, float]) -> DecisionMap:
    """Return the map of behaviour (to the right) and knowledge (upwards)."""
    rows = decision_regions(answers)
    side = 100 / len(rows)
    cells = []
    for index, row in enumerate(rows):
        start = 0
        for column in range(1, len(row) + 1):
            if column == len(row) or row[column] != row[start]:
                y = 100 - (index + 1) * side
                cells.append(Cell(row[start], start * side, y, (column - start) * side, side))
                start = column
    return DecisionMap(
        cells=tuple(cells),
        strategies=tuple(dict.fromkeys(cell.strategy for cell in cells)),
        x=axes["behaviour"] / AXIS_MAX * 100,
        y=100 - axes["knowledge"] / AXIS_MAX * 100,
    )
