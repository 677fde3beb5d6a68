"""Takes training steps for real and measures them: the allocator's counters on CUDA, on a CPU
the storage recorder."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from estimator.estimate import COMPONENTS, PHASES, Component, Phase
from estimator.from_trace import components_at, phases_of
from trainer.build import Training
from trainer.loading import record_load
from trainer.observe import observed_steps
from trainer.recorder import StorageRecorder
from trainer.step import Batch, StepHooks, training_step

NUM_OBSERVED_STEPS = 2


@dataclass(slots=True)
class Measurement:
    """What the steps of a probe showed.

    ``step_seconds`` are those of the unwatched steps: watching costs time.
    """

    components_bytes: dict[Component, int | None] = field(default_factory=dict)
    phases_bytes: dict[Phase, int | None] = field(default_factory=dict)
    peak_phase: Phase = "load"
    peak_allocated_bytes: int = 0
    peak_reserved_bytes: int | None = None
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    tokens_per_step: int = 0
    stopped_early: bool = False

    @property
    def step_seconds_median(self) -> float | None:
        """Median seconds of an unobserved step, None where there was none."""
        return statistics.median(self.step_seconds) if self.step_seconds else None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens trained per second, padding included."""
        median = self.step_seconds_median
        return self.tokens_per_step / median if median else None


def measure_steps(
    training: Training,
    batches: Iterator[Batch],
    device: torch.device,
    *,
    num_steps: int,
    on_step: Callable[[dict[str, Any]], None],
    on_phase: Callable[[Phase], None],
    should_stop: Callable[[], bool],
) -> Measurement:
    """Train for some steps and return what they needed.

    Two steps are watched storage by storage, which tells components apart. On a CPU they come
    first, and the recorder goes on counting, because nothing else does. On CUDA they come last:
    the peaks are the allocator's own, taken while nobody watches.

    Args:
        training: Model, trained parameters and optimizer, on ``device``.
        batches: Yields micro-batches on ``device``.
        device: CUDA or CPU.
        num_steps: At least two.
        on_step: Told of each step: step, loss, seconds, tokens per second and bytes.
        on_phase: Told of each phase that begins.
        should_stop: Asked before each unwatched step.
    """
    vocab_size = training.model.config.get_text_config().vocab_size
    recorder = StorageRecorder(vocab_size=vocab_size, device_type=device.type)
    meter = _CudaMeter(device) if device.type == "cuda" else _CpuMeter(recorder)
    session = _Session(
        training, batches, recorder, meter, num_steps, on_step, on_phase, should_stop
    )
    if isinstance(meter, _CudaMeter):
        session.take_unwatched()
        if len(session.losses) >= NUM_OBSERVED_STEPS:  # the second step has all there is to hold
            meter.stop()
        if not (meter.stopped and should_stop()):
            with recorder:
                session.take_watched()
    else:
        with recorder:
            session.take_watched()
            session.take_unwatched()
    result = Measurement(
        losses=session.losses,
        step_seconds=session.step_seconds[1:] or session.step_seconds,  # the first warms up
        tokens_per_step=session.tokens_per_step,
        stopped_early=len(session.losses) < num_steps,
    )
    meter.finish(result, recorder)
    return result


@dataclass(slots=True)
class _Session:
    """The steps of one probe: how far they are, and who is told."""

    training: Training
    batches: Iterator[Batch]
    recorder: StorageRecorder
    meter: _CudaMeter | _CpuMeter
    num_steps: int
    on_step: Callable[[dict[str, Any]], None]
    on_phase: Callable[[Phase], None]
    should_stop: Callable[[], bool]
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one unwatched step."""
        plan = self.training.plan
        return plan.tokens_per_micro_batch * plan.micro_steps_taken

    @property
    def on_cuda(self) -> bool:
        """Whether the steps run on CUDA."""
        return isinstance(self.meter, _CudaMeter)

    def enter(self, phase: Phase) -> None:
        """Begin a phase."""
        self.meter.enter(phase)
        self.on_phase(phase)

    def take_watched(self) -> None:
        """Take the two watched steps, whether somebody wants to stop or not."""
        record_load(self.recorder, self.training.model, self.training.plan, straight=False)
        steps = observed_steps(
            self.training, self.batches, self.recorder, on_cuda=self.on_cuda, on_phase=self.enter
        )
        for loss in _timed(steps):
            self._tell(loss, tokens=None)
        self.recorder.stop_tracing()

    def take_unwatched(self) -> None:
        """Take the other steps, until somebody wants to stop."""
        for loss in _timed(self._unwatched()):
            self.step_seconds.append(loss.seconds)
            self._tell(loss, tokens=self.tokens_per_step)

    def _unwatched(self) -> Iterator[torch.Tensor]:
        for _ in range(self.num_steps - NUM_OBSERVED_STEPS):
            if self.should_stop():
                return
            yield training_step(
                self.training,
                self.batches,
                num_micro_steps=self.training.plan.micro_steps_taken,
                on_cuda=self.on_cuda,
                hooks=StepHooks(on_phase=self.enter),
            )

    def _tell(self, loss: _Loss, tokens: int | None) -> None:
        self.losses.append(loss.value)
        self.on_step(_row(len(self.losses), loss, tokens, self.meter))


@dataclass(frozen=True, slots=True)
class _Loss:
    value: float
    seconds: float


def _timed(steps: Iterator[torch.Tensor]) -> Iterator[_Loss]:
    """Take steps one by one; reading a loss waits for the GPU."""
    started = time.perf_counter()
    for loss in steps:
        value = loss.item()
        yield _Loss(value, time.perf_counter() - started)
        started = time.perf_counter()


def _row(
    number: int, loss: _Loss, tokens: int | None, meter: _CudaMeter | _CpuMeter
) -> dict[str, Any]:
    allocated, peak = meter.read_step()
    return {
        "step": number,
        "loss": loss.value if math.isfinite(loss.value) else None,
        "step_seconds": loss.seconds,
        "tokens_per_second": tokens / loss.seconds if tokens else None,
        "peak_allocated_bytes": peak,
        "allocated_bytes": allocated,
    }


class _CpuMeter:
    """The recorder's own count: a CPU has no allocator that could be asked."""

    def __init__(self, recorder: StorageRecorder) -> None:
        self.recorder = recorder

    def enter(self, phase: Phase) -> None:
        """Nothing to do: the recorder marks phases itself."""

    def read_step(self) -> tuple[int, int]:
        """Return bytes allocated now and at the peak since the last call."""
        peak = self.recorder.peak_bytes
        self.recorder.reset_peak()
        return self.recorder.live_bytes, peak

    def finish(self, result: Measurement, recorder: StorageRecorder) -> None:
        """Write the trace's peaks into the result."""
        peak = recorder.trace.peak()
        result.components_bytes = components_at(peak)
        result.phases_bytes = phases_of(recorder.trace)
        result.peak_phase = peak.phase
        result.peak_allocated_bytes = peak.size_bytes


class _CudaMeter:
    """The caching allocator's counters, read and reset wherever a phase begins."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phase: Phase = "load"
        self.peaks: dict[Phase, int] = {}
        self.step_peak = 0
        self.reserved = 0
        self.stopped = False

    def stop(self) -> None:
        """Let the peaks stand as they are: what follows is watched, and so not itself."""
        self.stopped = True

    def enter(self, phase: Phase) -> None:
        """Close the phase that ran and begin another."""
        peak = torch.cuda.max_memory_allocated(self.device)
        if not self.stopped:
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), peak)
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved(self.device))
        self.step_peak = max(self.step_peak, peak)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.phase = phase

    def read_step(self) -> tuple[int, int]:
        """Return bytes allocated now and at the peak since the last call."""
        self.enter(self.phase)
        peak, self.step_peak = self.step_peak, 0
        return torch.cuda.memory_allocated(self.device), peak

    def finish(self, result: Measurement, recorder: StorageRecorder) -> None:
        """Write the counters into the result; what no tensor explains is workspace."""
        result.phases_bytes = {phase: self.peaks.get(phase) for phase in PHASES}
        result.peak_phase = max(self.peaks, key=lambda phase: self.peaks[phase])
        result.peak_allocated_bytes = self.peaks[result.peak_phase]
        result.peak_reserved_bytes = self.reserved
        watched = recorder.trace.peak()
        unexplained = result.peak_allocated_bytes - watched.size_bytes
        if watched.phase == result.peak_phase and unexplained >= 0:
            components = components_at(watched)
            components["workspace"] = unexplained
            result.components_bytes = components
        else:  # not the same moment: the recorder cannot tell what was what at this peak
            result.components_bytes = dict.fromkeys(COMPONENTS)
