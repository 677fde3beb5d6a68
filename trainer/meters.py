"""What a device says of a step: on CUDA the caching allocator's counters, else the recorder's."""

from __future__ import annotations

import time
from typing import Protocol

import torch

from estimator.estimate import COMPONENTS, PHASES, Component, Phase
from estimator.from_trace import components_at, phases_of
from trainer.recorder import StorageRecorder


class Peaks(Protocol):
    """Where the peaks that a meter read are written to."""

    components_bytes: dict[Component, int | None]
    phases_bytes: dict[Phase, int | None]
    peak_phase: Phase
    peak_allocated_bytes: int
    peak_reserved_bytes: int | None


class CpuMeter:
    """The recorder's own count: a CPU has no allocator that could be asked."""

    def __init__(self, recorder: StorageRecorder) -> None:
        self.recorder = recorder
        self._optimizer_began = 0.0

    def enter(self, phase: Phase) -> None:
        """Note when the optimizer begins; the recorder marks phases itself."""
        if phase == "optimizer":
            self._optimizer_began = time.perf_counter()

    def read_step(self) -> tuple[int, int]:
        """Return bytes allocated now and at the peak since the last call."""
        peak = self.recorder.peak_bytes
        self.recorder.reset_peak()
        return self.recorder.live_bytes, peak

    def optimizer_seconds(self) -> float:
        """Return how long the optimizer phase of the step that just ended took."""
        return time.perf_counter() - self._optimizer_began

    def finish(self, result: Peaks, recorder: StorageRecorder) -> None:
        """Write the trace's peaks into the result."""
        peak = recorder.trace.peak()
        result.components_bytes = components_at(peak)
        result.phases_bytes = phases_of(recorder.trace)
        result.peak_phase = peak.phase
        result.peak_allocated_bytes = peak.size_bytes


class CudaMeter:
    """The caching allocator's counters, read and reset wherever a phase begins."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phase: Phase = "load"
        self.peaks: dict[Phase, int] = {}
        self.step_peak = 0
        self.reserved = 0
        self.stopped = False
        self._optimizer_began = torch.cuda.Event(enable_timing=True)

    def stop(self) -> None:
        """Let the peaks stand as they are: what follows is watched, and so not itself."""
        self.stopped = True

    def enter(self, phase: Phase) -> None:
        """Close the phase that ran and begin another."""
        if phase == "optimizer" and self.phase != "optimizer":
            self._optimizer_began.record()  # in the GPU's own time: nothing waits for it here
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

    def optimizer_seconds(self) -> float:
        """Return how long the optimizer phase of the step that just ended took."""
        ended = torch.cuda.Event(enable_timing=True)
        ended.record()
        ended.synchronize()
        return self._optimizer_began.elapsed_time(ended) / 1000

    def finish(self, result: Peaks, recorder: StorageRecorder) -> None:
        """Write the counters into the result; what no tensor explains is workspace."""
        result.phases_bytes = {phase: self.peaks.get(phase) for phase in PHASES}
        result.peak_phase = max(self.peaks, key=lambda phase: self.peaks[phase])
        result.peak_allocated_bytes = self.peaks[result.peak_phase]
        result.peak_reserved_bytes = self.reserved
        result.components_bytes = dict.fromkeys(COMPONENTS)
        if not recorder.trace.events:  # the steps ended before any was watched
            return
        watched = recorder.trace.peak()
        unexplained = result.peak_allocated_bytes - watched.size_bytes
        if watched.phase == result.peak_phase and unexplained >= 0:
            components = components_at(watched)
            components["workspace"] = unexplained
            result.components_bytes = components
        # else not the same moment: the recorder cannot tell what was what at this peak


Meter = CpuMeter | CudaMeter
