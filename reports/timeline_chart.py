"""Where the parts of the timeline chart lie, in the SVG's own units."""

from __future__ import annotations

from dataclasses import dataclass

from estimator.estimate import COMPONENTS, Timeline
from reports.units import GIB

_TICKS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Area:
    """One component over the step: a polygon on top of those before it."""

    name: str
    points: str


@dataclass(frozen=True, slots=True)
class TimelineChart:
    """Stacked areas from the first event of a step to its last, with where phases begin."""

    areas: tuple[Area, ...]
    phases: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]
    width: float
    height: float


def timeline_chart(timeline: Timeline, *, width: float = 860, height: float = 240) -> TimelineChart:
    """Return the chart of a step's timeline; y points down, 0 bytes lie at ``height``."""
    totals = timeline.total_bytes()
    top = max(totals) * 1.05
    floor = [0] * len(timeline.at)
    areas = []
    for name in COMPONENTS:
        sizes = timeline.components_bytes.get(name, ())
        if not any(sizes):
            continue
        ceiling = [below + size for below, size in zip(floor, sizes, strict=True)]
        upper = _steps(timeline.at, ceiling)
        lower = reversed(_steps(timeline.at, floor))
        points = [(at * width, height * (1 - size / top)) for at, size in (*upper, *lower)]
        areas.append(Area(name, " ".join(f"{x:.1f},{y:.1f}" for x, y in points)))
        floor = ceiling
    return TimelineChart(
        areas=tuple(areas),
        phases=tuple((at * width, phase) for at, phase in timeline.phase_starts()),
        ticks=tuple((height * (1 - size / top), label) for size, label in _ticks(top)),
        width=width,
        height=height,
    )


def _steps(at: tuple[float, ...], sizes: list[int]) -> list[tuple[float, int]]:
    """Hold each size until the next point: memory does not change in between."""
    corners = [(at[0], sizes[0])]
    for index in range(1, len(at)):
        corners += [(at[index], sizes[index - 1]), (at[index], sizes[index])]
    return corners


def _ticks(top: float) -> list[tuple[float, str]]:
    """Round sizes below ``top``, three to six of them."""
    unit, name = (GIB, "GiB") if top >= GIB else (2**20, "MiB")
    most = top / unit
    spans = (digit * 10**power for power in range(-3, 5) for digit in _TICKS)
    span = next(span for span in spans if most / span < 6)
    return [
        (index * span * unit, f"{index * span:g} {name}") for index in range(int(most / span) + 1)
    ]
