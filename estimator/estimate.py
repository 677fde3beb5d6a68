"""MemoryEstimate: what every reading of a plan returns, whatever it was read from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from pydantic import Field, model_validator

from estimator.gpus import Gpu
from estimator.plan import FineTunePlan
from estimator.records import Record

Basis = Literal["formula", "dry-run", "measured"]
Component = Literal[
    "weights",
    "quantization_state",
    "adapters",
    "gradients",
    "optimizer_states",
    "activations",
    "logits",
    "temporaries",
    "workspace",
]
Phase = Literal["load", "forward", "backward", "optimizer"]
Fits = Literal["yes", "tight", "no"]
Device = Literal["cuda", "cpu"]
Level = Literal["allocated", "reserved", "total"]

COMPONENTS: tuple[Component, ...] = get_args(Component)
PHASES: tuple[Phase, ...] = get_args(Phase)

CONTEXT_ASSUMED_BYTES = 600 * 2**20
"""Assumed size of a CUDA context where a reading does not know it: generous, so "yes" holds."""

FRAGMENTATION_ASSUMED = 1.10
"""Assumed reserved / allocated where no allocator was replayed (24 published steps: 1.05 to 1.41,
see bench/published)."""


class ParameterCounts(Record):
    """How many parameters there are, and how many of them are trained."""

    total: int
    trainable: int


class GpuFit(Record):
    """Whether the step fits one GPU.

    ``yes``: with the memory the allocator would like to hold. ``tight``: only if the allocator
    gives its cache back under pressure. ``headroom_bytes`` is the GPU's memory less the smallest
    need, negative where it does not fit.
    """

    name: str
    memory_bytes: int
    fits: Fits
    headroom_bytes: int


class Band(Record):
    """A size as it may turn out: at least, most likely, at most."""

    low_bytes: int
    likely_bytes: int
    high_bytes: int


class Timeline(Record):
    """The allocated memory over one step, by component, for a chart.

    ``at`` is the share of the step's events that lie behind each point, 0 to 1, rising; it is not
    time: an event is a tensor made or freed. ``phase`` and each component's bytes hold one value
    for each point.
    """

    at: tuple[float, ...]
    phase: tuple[Phase, ...]
    components_bytes: dict[Component, tuple[int, ...]]

    @model_validator(mode="after")
    def _check_lengths(self) -> Timeline:
        series = [self.phase, *self.components_bytes.values()]
        if any(len(values) != len(self.at) for values in series):
            raise ValueError("every series of a timeline needs one value for each point")
        return self

    def phase_starts(self) -> list[tuple[float, Phase]]:
        """Return where each phase begins; one that comes back is named again."""
        changes = zip(self.at, self.phase, (None, *self.phase), strict=False)
        return [(at, phase) for at, phase, before in changes if phase != before]

    def total_bytes(self) -> tuple[int, ...]:
        """Return the sum of all components at each point."""
        return tuple(map(sum, zip(*self.components_bytes.values(), strict=True)))


class MemoryEstimate(Record):
    """The memory of one training step, on one GPU, by component and by phase.

    ``components_bytes`` are those live at the peak and sum to ``peak_allocated_bytes``;
    ``phases_bytes`` are the peaks within each phase. A value that the reading cannot know is
    None, never zero. ``total_bytes`` is reserved + context: what ``nvidia-smi`` shows. ``bands``
    tell between what limits each of the three may turn out, and ``moved_by`` what moves it there.
    """

    basis: Basis
    plan: FineTunePlan
    parameters: ParameterCounts
    components_bytes: dict[Component, int | None]
    phases_bytes: dict[Phase, int | None]
    peak_phase: Phase
    peak_allocated_bytes: int
    peak_reserved_bytes: int | None = None
    smallest_fit_bytes: int | None = None
    context_bytes: int | None = None
    total_bytes: int | None = None
    gpus: tuple[GpuFit, ...] = ()
    assumptions: tuple[str, ...] = ()
    device: Device = "cuda"
    software: dict[str, str] = Field(default_factory=dict)
    seconds: float | None
    timeline: Timeline | None = None
    bands: dict[Level, Band] = Field(default_factory=dict)
    moved_by: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_sum(self) -> MemoryEstimate:
        known = [size for size in self.components_bytes.values() if size is not None]
        if len(known) == len(COMPONENTS) and sum(known) != self.peak_allocated_bytes:
            message = f"components sum to {sum(known)}, the peak is {self.peak_allocated_bytes}"
            raise ValueError(message)
        return self

    @property
    def smallest_need_bytes(self) -> int:
        """The least GPU memory with which the step runs, context included."""
        allocator = self.smallest_fit_bytes or self.peak_allocated_bytes
        return allocator + self._context_bytes

    @property
    def comfortable_need_bytes(self) -> int:
        """The GPU memory with which the allocator never has to give its cache back."""
        assumed = round(self.peak_allocated_bytes * FRAGMENTATION_ASSUMED)
        return (self.peak_reserved_bytes or assumed) + self._context_bytes

    @property
    def _context_bytes(self) -> int:
        return CONTEXT_ASSUMED_BYTES if self.context_bytes is None else self.context_bytes

    def fit(self, gpu: Gpu) -> GpuFit:
        """Return whether this step fits ``gpu``, and how much would be left."""
        memory = gpu.memory_bytes
        fits: Fits = "no"
        if self.comfortable_need_bytes <= memory:
            fits = "yes"
        elif self.smallest_need_bytes <= memory:
            fits = "tight"
        headroom = memory - self.smallest_need_bytes
        return GpuFit(name=gpu.name, memory_bytes=memory, fits=fits, headroom_bytes=headroom)

    def fit_on(self, name: str) -> GpuFit | None:
        """Return the verdict for a GPU, None where this estimate cannot speak of it."""
        return next((fit for fit in self.gpus if fit.name == name), None)


def judged_gpus(estimates: Iterable[MemoryEstimate]) -> list[GpuFit]:
    """Return one verdict for each GPU that any of the estimates speaks of, in their order."""
    by_name: dict[str, GpuFit] = {}
    for estimate in estimates:
        for fit in estimate.gpus:
            by_name.setdefault(fit.name, fit)
    return list(by_name.values())
