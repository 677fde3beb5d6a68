"""Grows the trace of a model with few layers into that of one with many equal layers.

Of a model whose decoder layers are alike a few *units* are run (a unit is one layer, or a few where
kinds of layers take turns). The two in the middle have to leave the same trace; as many more of
them as were left out are then written in between. The result is the trace of the whole model, event
by event; where the two units differ there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from estimator.trace import FLUSH, Trace

KEPT_UNITS = 6
"""Units that are run: the outermost two touch what is not repeated, and may differ."""

_EARLIER, _LATER = 2, 3  # the units that have to be alike
_INNER = range(1, KEPT_UNITS - 1)  # the units whose storages have to be alike


class NotAlike(Exception):
    """The units do not leave the same trace, so that none can stand for those left out."""


class Pass(NamedTuple):
    """One way through the layers: forward or backward of one micro-batch."""

    number: int
    is_backward: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of events that belongs to one unit, or to none.

    Attributes:
        start: Index of its first event; it ends where the next stretch begins.
        unit: Which of the units it belongs to, None for what is not repeated.
        way: The pass it is part of.
    """

    start: int
    unit: int | None = None
    way: Pass | None = None


class _Home(NamedTuple):
    """Where a storage was born within a unit: in which pass, as which of its births."""

    unit: int
    way: Pass
    order: int


def splice(trace: Trace, stretches: list[Stretch], num_left_out: int) -> Trace:
    """Return the trace as it were with ``num_left_out`` more units.

    Args:
        trace: Of a model with :data:`KEPT_UNITS` units. Storages of ``trace.stand_ins`` take the
            place of gradients of what was left out: they vanish, the repeated ones are written.
        stretches: The whole trace cut up, in order.
        num_left_out: Units to write in between, at least one.

    Raises:
        NotAlike: The two middle units differ, or one of them reaches beyond its neighbours.
    """
    return _Splicer(trace, stretches, num_left_out).run()


class _Splicer:
    def __init__(self, trace: Trace, stretches: list[Stretch], num_left_out: int) -> None:
        self.old = trace
        self.stretches = stretches
        self.num_left_out = num_left_out
        self.new = Trace()
        self.homes: list[_Home | None] = [None] * len(trace.sizes)
        self.born_in: dict[tuple[int, Pass], list[int]] = {}
        self.global_numbers: dict[int, int] = {}
        self.unit_numbers: dict[tuple[int, Pass, int], int] = {}
        self.marks = dict(trace.marks)

    def run(self) -> Trace:
        ends = [one.start for one in self.stretches[1:]] + [len(self.old.events)]
        for stretch, end in zip(self.stretches, ends, strict=True):
            self._find_homes(stretch, end)
        spans = list(zip(self.stretches, ends, strict=True))
        self._check_alike(spans)
        for stretch, end in spans:
            self._write(stretch, range(stretch.start, end))
            if stretch.way and stretch.unit == (_LATER if stretch.way.is_backward else _EARLIER):
                template = next(
                    (one, last)
                    for one, last in spans
                    if one.unit == _LATER and one.way == stretch.way
                )
                self._write_left_out(*template)
        for at, phase in self.old.marks:
            if at >= len(self.old.events):
                self.new.mark(phase)
        return self.new

    def _find_homes(self, stretch: Stretch, end: int) -> None:
        if stretch.unit is None or stretch.way is None:
            return
        births = self.born_in.setdefault((stretch.unit, stretch.way), [])
        for event in self.old.events[stretch.start : end]:
            if event >= 0:
                self.homes[event] = _Home(stretch.unit, stretch.way, len(births))
                births.append(event)

    # -- are the middle units alike?

    def _check_alike(self, spans: list[tuple[Stretch, int]]) -> None:
        seen: dict[tuple[Pass, int], list[object]] = {}
        for stretch, end in spans:
            if stretch.way and stretch.unit in (_EARLIER, _LATER):
                events = range(stretch.start, end)
                seen[stretch.way, stretch.unit] = list(self._relative(stretch.unit, events))
        for way in {way for way, _ in seen}:
            if seen.get((way, _EARLIER)) != seen.get((way, _LATER)):
                raise NotAlike(f"two layers differ in what they do in {way}")
            kinds = [[self._kind(one) for one in self.born_in.get((u, way), ())] for u in _INNER]
            if any(kind != kinds[0] for kind in kinds):
                raise NotAlike(f"two layers differ in what they make in {way}")
        outside: dict[int, list[tuple[Pass, int]]] = {_EARLIER: [], _LATER: []}
        for stretch, end in spans:
            if stretch.unit is None:
                for home in self._deaths(range(stretch.start, end)):
                    if home.unit in outside:
                        outside[home.unit].append((home.way, home.order))
        if sorted(outside[_EARLIER]) != sorted(outside[_LATER]):
            raise NotAlike("what outlives the layers differs from one to the next")

    def _kind(self, number: int) -> tuple[int, str]:
        return self.old.sizes[number], self.old.components[number]

    def _deaths(self, events: range) -> Iterator[_Home]:
        for index in events:
            event = self.old.events[index]
            home = self.homes[~event] if event < 0 and event != FLUSH else None
            if home:
                yield home

    def _relative(self, unit: int, events: range) -> Iterator[object]:
        """Yield what happens in a unit in words that hold for every unit like it."""
        for index in events:
            event = self.old.events[index]
            if event >= 0:
                yield self._kind(event)
                continue
            home = None if event == FLUSH else self.homes[~event]
            if home is None or abs(home.unit - unit) > 1:
                raise NotAlike("a layer lets go of what is not its own or its neighbours'")
            yield home.unit - unit, home.way, home.order

    # -- writing

    def _place(self, unit: int) -> int:
        """Return which unit of the whole model one of those that were run is."""
        return unit + self.num_left_out if unit >= _LATER else unit

    def _write(self, stretch: Stretch, events: range) -> None:
        for index in events:
            if index in self.marks:
                self.new.mark(self.marks[index])
            event = self.old.events[index]
            if event == FLUSH:
                self.new.flushed()
            elif event >= 0:
                self._write_birth(event)
            else:
                self._write_death(~event, stretch.unit)

    def _write_birth(self, number: int) -> None:
        if number in self.old.stand_ins:
            return
        new = self.new.born(self.old.sizes[number], self.old.components[number])
        home = self.homes[number]
        if home is None:
            self.global_numbers[number] = new
        else:
            self.unit_numbers[self._place(home.unit), home.way, home.order] = new
        if number in self.old.outputs:
            self.new.outputs.add(new)

    def _write_death(self, number: int, unit: int | None) -> None:
        if number in self.old.stand_ins:
            return
        home = self.homes[number]
        if home is None:
            self.new.died(self.global_numbers[number])
            return
        if unit is None:
            places = [self._place(home.unit)]
            if home.unit == _EARLIER:  # with it go its equals, which nothing tells apart
                places = list(range(_EARLIER, _LATER + self.num_left_out))
        else:
            places = [self._place(unit) + home.unit - unit]
        for place in places:
            self.new.died(self.unit_numbers[place, home.way, home.order])

    def _write_left_out(self, template: Stretch, end: int) -> None:
        first, last = _LATER, _LATER + self.num_left_out
        way = template.way
        if way is None:
            return
        order = range(last - 1, first - 1, -1) if way.is_backward else range(first, last)
        for place in order:
            born = 0
            for event in self.old.events[template.start : end]:
                if event >= 0:
                    new = self.new.born(self.old.sizes[event], self.old.components[event])
                    self.unit_numbers[place, way, born] = new
                    born += 1
                    continue
                home = self.homes[~event]
                if home:
                    at = place + home.unit - _LATER
                    self.new.died(self.unit_numbers[at, home.way, home.order])
