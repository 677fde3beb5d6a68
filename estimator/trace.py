"""The life of every storage during a training step: who was born, who died, in which order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from estimator.estimate import Component, Phase


@dataclass(slots=True)
class Trace:
    """An allocation trace: storages, and the order of their births and deaths.

    Attributes:
        sizes: Bytes of each storage, by its number.
        components: What each storage is for; one that nothing laid claim to is a temporary.
        events: ``number`` for a birth, ``~number`` for a death, :data:`FLUSH` where the
            allocator's cache was emptied.
        marks: ``(index into events, phase)`` where a phase began.
        outputs: Storages of the model's outputs.
        stand_ins: Storages that take the place of others, which are not in the trace.
    """

    sizes: list[int] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    marks: list[tuple[int, Phase]] = field(default_factory=list)
    outputs: set[int] = field(default_factory=set)
    stand_ins: set[int] = field(default_factory=set)

    def born(self, size: int, component: Component = "temporaries") -> int:
        """Record a birth and return the storage's number."""
        self.sizes.append(size)
        self.components.append(component)
        self.events.append(len(self.sizes) - 1)
        return len(self.sizes) - 1

    def died(self, number: int) -> None:
        """Record a death."""
        self.events.append(~number)

    def flushed(self) -> None:
        """Record that the allocator gave its unused segments back."""
        self.events.append(FLUSH)

    def mark(self, phase: Phase) -> None:
        """Record that ``phase`` begins here."""
        self.marks.append((len(self.events), phase))

    def with_sizes(self, sizes: list[int]) -> Trace:
        """Return the same trace with other sizes, such as those of an allocator's blocks."""
        return replace(self, sizes=sizes)

    def with_outputs_held(self) -> Trace:
        """Return the trace of a loop that holds the model's outputs until the next are there."""
        held = Trace(self.sizes, self.components, outputs=self.outputs)
        waiting: list[int] = []
        marks = dict(self.marks)
        for index, event in enumerate(self.events):
            if index in marks:
                if marks[index] == "backward":
                    held.events += waiting
                    waiting = []
                held.mark(marks[index])
            if event < 0 and ~event in self.outputs:
                waiting.append(event)
            else:
                held.events.append(event)
        held.events += waiting
        return held

    def peak(self) -> Peak:
        """Return the moment at which most bytes are alive, and what they are."""
        live = top = 0
        where = -1
        for index, event in enumerate(self.events):
            live += self.change(event)
            if live > top:
                top, where = live, index
        return Peak(top, self._phase_at(where), self._components_at(where))

    def phase_peaks(self) -> dict[Phase, int]:
        """Return the most bytes alive within each phase, over all its occurrences."""
        peaks: dict[Phase, int] = {}
        marks = iter([*self.marks, (len(self.events) + 1, None)])
        following, next_phase = next(marks)
        phase: Phase | None = None
        live = 0
        for index, event in enumerate(self.events):
            while index >= following:
                phase = next_phase
                following, next_phase = next(marks)
                if phase:
                    peaks[phase] = max(peaks.get(phase, 0), live)
            live += self.change(event)
            if phase:
                peaks[phase] = max(peaks.get(phase, 0), live)
        return peaks

    def change(self, event: int) -> int:
        """Return by how much an event changes what is alive, in bytes."""
        if event == FLUSH:
            return 0
        return self.sizes[event] if event >= 0 else -self.sizes[~event]

    def _components_at(self, index: int) -> dict[Component, int]:
        alive: set[int] = set()
        for event in self.events[: index + 1]:
            if event >= 0:
                alive.add(event)
            elif event != FLUSH:
                alive.discard(~event)
        sums: Counter[Component] = Counter()
        for number in alive:
            sums[self.components[number]] += self.sizes[number]
        return dict(sums)

    def _phase_at(self, index: int) -> Phase:
        begun: list[Phase] = [phase for at, phase in self.marks if at <= index]
        return begun[-1] if begun else "load"


FLUSH = -(2**62)
"""The event that stands for ``torch.cuda.empty_cache()``."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The fullest moment of a trace."""

    size_bytes: int
    phase: Phase
    components_bytes: dict[Component, int]
