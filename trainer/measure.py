"""Takes training steps for real and measures them: the allocator's counters on CUDA, on a CPU
the storage recorder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from estimator.estimate import Phase
from trainer.build import Training
from trainer.ending import Ended
from trainer.gpu_meter import GpuMeter
from trainer.loading import record_load
from trainer.measurement import Measurement
from trainer.meters import CpuMeter, CudaMeter, Meter
from trainer.observe import observed_steps
from trainer.recorder import StorageRecorder
from trainer.results import StepRole
from trainer.step import Batch, StepHooks, training_step

NUM_OBSERVED_STEPS = 2


@dataclass(frozen=True, slots=True)
class Batches:
    """What steps are taken on.

    Attributes:
        full: Every micro-batch of the plan's full shape.
        natural: As long as the longest example in it; None where batches are always full.
        told: What they are made of, in words.
        num_examples: How many different examples there are, None of random tokens.
        tokens_per_example: Their mean length in real tokens, where it is known.
        num_rows: How many rows an epoch trains on, where it is known.
    """

    full: Iterator[Batch]
    natural: Iterator[Batch] | None
    told: str
    num_examples: int | None = None
    tokens_per_example: float | None = None
    num_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Watchers:
    """Who is told of steps and phases, and who may ask to stop."""

    on_step: Callable[[dict[str, Any]], None]
    on_phase: Callable[[Phase], None]
    should_stop: Callable[[], bool]


def measure_steps(
    training: Training,
    batches: Batches,
    device: torch.device,
    gpu_meter: GpuMeter,
    *,
    num_steps: int,
    watchers: Watchers,
) -> Measurement:
    """Train for some steps and return what they needed.

    Two steps are watched storage by storage, which tells components apart. On a CPU they come
    first, and the recorder goes on counting, because nothing else does. On CUDA they come last:
    the peaks are the allocator's own, taken while nobody watches. Memory is that of full batches;
    times are those of the data's own, after the warm-up (on a CPU the watched steps are one).

    Args:
        training: Model, trained parameters and optimizer, on ``device``.
        batches: Micro-batches on ``device``.
        device: CUDA or CPU.
        gpu_meter: Watches the GPU's driver during the timed steps.
        num_steps: At least two, the watched ones among them.
        watchers: Told of each step (number, role, loss, seconds, tokens per second and bytes) and
            of each phase; asked before each unwatched step whether to stop.

    Raises:
        Ended: The process was told to end before two steps were done.
    """
    vocab_size = training.model.config.get_text_config().vocab_size
    recorder = StorageRecorder(vocab_size=vocab_size, device_type=device.type)
    meter = CudaMeter(device) if device.type == "cuda" else CpuMeter(recorder)
    result = Measurement()
    session = _Session(training, batches, recorder, meter, gpu_meter, watchers, result)
    roles = unwatched_roles(
        num_steps - NUM_OBSERVED_STEPS,
        on_cuda=device.type == "cuda",
        is_natural=batches.natural is not None,
    )
    try:
        session.take(roles)
    except Ended:
        if len(result.losses) < NUM_OBSERVED_STEPS:  # the second has all there is to hold
            raise
        result.ended = True
    result.stopped_early = len(result.losses) < num_steps
    result.gpu_use = gpu_meter.use
    meter.finish(result, recorder)
    return result


def unwatched_roles(num_steps: int, *, on_cuda: bool, is_natural: bool) -> list[StepRole]:
    """Return what each of the unwatched steps is for, in their order.

    Args:
        num_steps: How many there are.
        on_cuda: Whether they come first; on a CPU the watched ones have warmed everything up.
        is_natural: Whether the data's own batches are smaller than the plan's full shape.
    """
    first: StepRole = "stress" if is_natural else "warm_up"
    num_first = 0
    if on_cuda:
        num_first = NUM_OBSERVED_STEPS if is_natural else 1
    return [first if index < num_first else "timed" for index in range(num_steps)]


@dataclass(slots=True)
class _Session:
    """The steps of one probe: how far they are, and who is told."""

    training: Training
    batches: Batches
    recorder: StorageRecorder
    meter: Meter
    gpu_meter: GpuMeter
    watchers: Watchers
    result: Measurement

    def take(self, roles: Sequence[StepRole]) -> None:
        """Take all steps, watched and unwatched, in the order that the device wants."""
        if isinstance(self.meter, CpuMeter):
            with self.recorder:
                self.take_watched()
                self.take_unwatched(roles)
            return
        self.take_unwatched(roles)
        if len(self.result.losses) >= NUM_OBSERVED_STEPS:
            self.meter.stop()
        if not (self.meter.stopped and self.watchers.should_stop()):
            with self.recorder:
                self.take_watched()

    def enter(self, phase: Phase) -> None:
        """Begin a phase."""
        self.meter.enter(phase)
        self.watchers.on_phase(phase)

    def take_watched(self) -> None:
        """Take the two watched steps, whether somebody wants to stop or not."""
        record_load(self.recorder, self.training.model, self.training.plan, straight=False)
        steps = observed_steps(
            self.training,
            self.batches.full,
            self.recorder,
            on_cuda=isinstance(self.meter, CudaMeter),
            on_phase=self.enter,
        )
        started = time.perf_counter()
        for loss in steps:
            self._tell("watched", loss.item(), time.perf_counter() - started, None)
            started = time.perf_counter()
        self.recorder.stop_tracing()

    def take_unwatched(self, roles: Sequence[StepRole]) -> None:
        """Take the other steps, until somebody wants to stop."""
        num_before = next((at for at, role in enumerate(roles) if role == "timed"), len(roles))
        if self._take_each(roles[:num_before]) and roles[num_before:]:
            with self.gpu_meter:
                self._take_each(roles[num_before:])

    def _take_each(self, roles: Sequence[StepRole]) -> bool:
        """Take a step for each role; False where somebody wanted to stop before the end."""
        for role in roles:
            if self.watchers.should_stop():
                return False
            if role == "timed":
                self._take_timed()
            else:
                self._take_one(role, self.batches.full, StepHooks(on_phase=self.enter))
        return True

    def _take_timed(self) -> None:
        tokens = _TokenCount()
        hooks = StepHooks(on_phase=self.enter, on_inputs=tokens.note)
        self._take_one("timed", self.batches.natural or self.batches.full, hooks, tokens)

    def _take_one(
        self,
        role: StepRole,
        batches: Iterator[Batch],
        hooks: StepHooks,
        tokens: _TokenCount | None = None,
    ) -> None:
        started = time.perf_counter()
        loss = training_step(
            self.training,
            batches,
            num_micro_steps=self.training.plan.micro_steps_taken,
            on_cuda=isinstance(self.meter, CudaMeter),
            hooks=hooks,
        ).item()  # reading it waits for the GPU
        seconds = time.perf_counter() - started
        num_tokens = None
        if tokens is not None:
            self.result.step_seconds.append(seconds)
            self.result.optimizer_seconds.append(self.meter.optimizer_seconds())
            lengths = tokens.row_lengths()
            num_tokens = sum(lengths)
            self.result.row_lengths += lengths
            self.result.num_positions += tokens.num_positions
        self._tell(role, loss, seconds, num_tokens)

    def _tell(self, role: StepRole, loss: float, seconds: float, num_tokens: int | None) -> None:
        result = self.result
        result.losses.append(loss)
        result.roles[role] += 1
        allocated, peak = self.meter.read_step()
        if role == "timed":
            result.timed_peak_bytes = max(peak, result.timed_peak_bytes or 0)
        row = {
            "step": len(result.losses),
            "role": role,
            "loss": loss if math.isfinite(loss) else None,
            "step_seconds": seconds,
            "tokens_per_second": num_tokens / seconds if num_tokens else None,
            "peak_allocated_bytes": peak,
            "allocated_bytes": allocated,
        }
        self.watchers.on_step(row)


class _TokenCount:
    """The real tokens of one step's batches, counted once the step is done: that would wait."""

    def __init__(self) -> None:
        self.num_positions = 0
        self._batches: list[tuple[torch.Size, torch.Tensor | None]] = []

    def note(self, batch: Batch) -> None:
        """Note a micro-batch that a step is given."""
        shape = batch["input_ids"].shape
        self.num_positions += shape.numel()
        self._batches.append((shape, batch.get("attention_mask")))

    def row_lengths(self) -> list[int]:
        """Return the real tokens of each row."""
        lengths: list[int] = []
        for shape, mask in self._batches:
            lengths += [shape[1]] * shape[0] if mask is None else mask.sum(dim=1).tolist()
        return lengths
