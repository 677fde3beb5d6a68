"""What the steps of a probe showed, and the figures that follow from it."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field

from estimator.estimate import Component, Phase
from trainer.results import GpuUse, Lengths, StepRole


@dataclass(slots=True)
class Measurement:
    """What the steps of a probe showed.

    ``step_seconds``, ``optimizer_seconds`` and the tokens are those of the timed steps.
    """

    components_bytes: dict[Component, int | None] = field(default_factory=dict)
    phases_bytes: dict[Phase, int | None] = field(default_factory=dict)
    peak_phase: Phase = "load"
    peak_allocated_bytes: int = 0
    peak_reserved_bytes: int | None = None
    losses: list[float] = field(default_factory=list)
    roles: Counter[StepRole] = field(default_factory=Counter)
    step_seconds: list[float] = field(default_factory=list)
    optimizer_seconds: list[float] = field(default_factory=list)
    row_lengths: list[int] = field(default_factory=list)
    num_positions: int = 0
    timed_peak_bytes: int | None = None
    gpu_use: GpuUse | None = None
    stopped_early: bool = False
    ended: bool = False

    @property
    def step_seconds_median(self) -> float | None:
        """Median seconds of a timed step, None where there was none."""
        return statistics.median(self.step_seconds) if self.step_seconds else None

    @property
    def step_seconds_p95(self) -> float | None:
        """The 95th percentile of the timed steps' seconds, None of fewer than two."""
        if len(self.step_seconds) < 2:
            return None
        return statistics.quantiles(self.step_seconds, n=20, method="inclusive")[-1]

    @property
    def tokens_per_step(self) -> float | None:
        """Real tokens of a timed step, on average."""
        return sum(self.row_lengths) / len(self.step_seconds) if self.step_seconds else None

    @property
    def tokens_per_second(self) -> float | None:
        """Real tokens trained per second."""
        return self._per_second(sum(self.row_lengths))

    @property
    def padded_tokens_per_second(self) -> float | None:
        """Real tokens and padding per second, None where there is no padding."""
        is_padded = self.num_positions > sum(self.row_lengths)
        return self._per_second(self.num_positions) if is_padded else None

    @property
    def lengths(self) -> Lengths | None:
        """How long the rows of the timed steps were, None where there was none."""
        if not self.row_lengths:
            return None
        return Lengths(
            num_rows=len(self.row_lengths),
            shortest=min(self.row_lengths),
            median=statistics.median(self.row_lengths),
            longest=max(self.row_lengths),
            padded_share=1 - sum(self.row_lengths) / self.num_positions,
        )

    def _per_second(self, num_tokens: int) -> float | None:
        median = self.step_seconds_median
        return num_tokens / len(self.step_seconds) / median if median else None
