"""Takes training steps for real and measures them: the allocator's counters on CUDA, on a CPU
the storage recorder."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from estimator.estimate import COMPONENTS, PHASES, Component, Phase
from trainer.build import Training
from trainer.loading import record_load
from trainer.observe import components_at, micro_steps_taken, observed_steps, phases_of
from trainer.recorder import StorageRecorder
from trainer.step import Batch, StepHooks, training_step

NUM_OBSERVED_STEPS = 2


@dataclass(slots=True)
class Measurement:
    """What the steps of a probe showed.

    ``step_seconds`` are those of the steps after the observed ones, whose recording costs time.
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

    The first two steps are watched storage by storage, which tells components apart; on CUDA
    the steps after them run unwatched, and the peaks of all come from the allocator's counters.

    Args:
        training: Model, trained parameters and optimizer, on ``device``.
        batches: Yields micro-batches on ``device``.
        device: CUDA or CPU.
        num_steps: At least two.
        on_step: Told of each step: step, loss, seconds, tokens per second and bytes.
        on_phase: Told of each phase that begins.
        should_stop: Asked after each step.
    """
    on_cuda = device.type == "cuda"
    plan = training.plan
    vocab_size = training.model.config.get_text_config().vocab_size
    recorder = StorageRecorder(vocab_size=vocab_size, device_type=device.type)
    record_load(recorder, training.model, plan, straight=False)
    meter = _CudaMeter(device) if on_cuda else _CpuMeter(recorder)

    def enter(phase: Phase) -> None:
        meter.enter(phase)
        on_phase(phase)

    tokens = plan.tokens_per_micro_batch * micro_steps_taken(plan)
    result = Measurement(tokens_per_step=tokens)
    with contextlib.ExitStack() as recording:
        recording.enter_context(recorder)
        steps = _steps(training, batches, recorder, enter, on_cuda)
        for number in range(1, num_steps + 1):
            started = time.perf_counter()
            loss = next(steps).item()  # waits for the GPU
            seconds = time.perf_counter() - started
            observed = number <= NUM_OBSERVED_STEPS
            if not observed:
                result.step_seconds.append(seconds)
            result.losses.append(loss)
            on_step(_row(number, loss, seconds, None if observed else tokens, meter))
            if number == NUM_OBSERVED_STEPS:
                recorder.stop_tracing()
                if on_cuda:
                    recording.close()
            if should_stop() and number >= NUM_OBSERVED_STEPS:
                result.stopped_early = number < num_steps
                break
    meter.finish(result, recorder)
    return result


def _steps(
    training: Training,
    batches: Iterator[Batch],
    recorder: StorageRecorder,
    enter: Callable[[Phase], None],
    on_cuda: bool,
) -> Iterator[torch.Tensor]:
    yield from observed_steps(training, batches, recorder, on_cuda=on_cuda, on_phase=enter)
    hooks = StepHooks(on_phase=enter)
    while True:
        yield training_step(
            training,
            batches,
            num_micro_steps=micro_steps_taken(training.plan),
            on_cuda=on_cuda,
            hooks=hooks,
        )


def _row(
    number: int, loss: float, seconds: float, tokens: int | None, meter: _CudaMeter | _CpuMeter
) -> dict[str, Any]:
    allocated, peak = meter.read_step()
    return {
        "step": number,
        "loss": loss if math.isfinite(loss) else None,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds if tokens else None,
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

    def enter(self, phase: Phase) -> None:
        """Close the phase that ran and begin another."""
        peak = torch.cuda.max_memory_allocated(self.device)
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), peak)
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
        result.peak_reserved_bytes = torch.cuda.max_memory_reserved(self.device)
        components = components_at(recorder.trace.peak())
        unexplained = result.peak_allocated_bytes - sum(size or 0 for size in components.values())
        if unexplained >= 0:
            components["workspace"] = unexplained
            result.components_bytes = components
        else:  # the recorder saw more than the allocator: it cannot tell what was what
            result.components_bytes = dict.fromkeys(COMPONENTS)
