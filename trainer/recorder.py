"""Records the birth and death of every tensor storage, on fake and on real tensors alike."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed._tools.common_utils import get_untyped_storages
from torch.utils._pytree import tree_iter

from estimator.estimate import Component, Phase
from estimator.trace import Trace
from trainer.dispatch import TracingMode

_UNTRACED = -1
"""The number of a storage that was born after tracing stopped."""


_SOLE_OWNER = 2
"""Owners of a storage that one tensor holds: that tensor, and Python's view while it asks."""

_ON_THE_WAY = ("_accumulates", "operate", "__torch_dispatch__", "__call__", "inner", "_fn")
"""Functions that an operation passes on its way from the engine to a dispatch mode."""


class StorageRecorder(TracingMode):
    """A dispatch mode under which every storage that is born is written into a trace.

    A storage is recorded when an operation first returns it, and its death when Python lets go
    of it: exactly what a caching allocator sees, except for what a kernel takes and gives back
    within one operation.
    """

    def __init__(self, *, vocab_size: int, device_type: str = "cpu") -> None:
        """Start with an empty trace.

        Args:
            vocab_size: What is as wide as this counts as logits, unless something claims it.
            device_type: Only storages on such a device are recorded.
        """
        super().__init__()
        self.trace = Trace()
        self._vocab_size = vocab_size
        self._device_type = device_type
        self._tracing = True
        self.phase: Phase | None = None
        self.live_bytes = 0
        self.peak_bytes = 0
        self._numbers: dict[int, int] = {}
        self._claimed: set[int] = set()
        self._forgotten: set[int] = set()

    def operate(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the operation and record the storages it returns."""
        if func is torch.ops.aten.add.Tensor and not kwargs and self._accumulates(*args):
            func = torch.ops.aten.add_.Tensor
        result = func(*args, **kwargs)
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self._record(value)
        if self._tracing and func is torch.ops.aten._to_copy.default:
            self._claim_copy(args[0], result)
        return result

    def _accumulates(self, total: Any, gradient: Any) -> bool:
        """Whether autograd is adding up two gradients of one tensor, and would do so in place.

        It adds in place where nothing else holds the first, but gives that up while a
        dispatch mode such as this one is active (``can_accumulate_inplace`` in
        ``autograd/input_buffer.cpp``): one tensor more than a step takes that nobody watches.
        """
        return (
            self.phase == "backward"
            and not torch.is_grad_enabled()
            and isinstance(gradient, torch.Tensor)
            and total.shape == gradient.shape
            and total.dtype == gradient.dtype
            and _is_sole(total)
            and _is_autograds_own()
        )

    def reset_peak(self) -> None:
        """Begin a new ``peak_bytes`` at what is alive now."""
        self.peak_bytes = self.live_bytes

    def stop_tracing(self) -> None:
        """Write no more into the trace; go on counting live bytes."""
        self._tracing = False

    def mark(self, phase: Phase) -> None:
        """Record that ``phase`` begins."""
        self.phase = phase
        self.trace.mark(phase)

    def claim(self, tensors: Iterable[torch.Tensor | None], component: Component) -> None:
        """Say what the storages of some tensors are for; the last claim holds."""
        for tensor in tensors:
            if tensor is not None:
                self._claim(self._record(tensor), component)

    def claim_saved(self, tensor: torch.Tensor, component: Component) -> None:
        """Say what a storage is for that autograd keeps, unless something has claimed it."""
        unclaimed = [
            number
            for number in self._record(tensor)
            if self._tracing
            and number not in self._claimed
            and self.trace.components[number] == "temporaries"
        ]
        self._claim(unclaimed, component)

    def stand_in(self, tensor: torch.Tensor) -> None:
        """Note a storage that only takes the place of others, which are not in the trace."""
        self.trace.stand_ins.update(self._record(tensor))

    def note_outputs(self, tensors: Iterable[torch.Tensor]) -> None:
        """Note the storages of the model's outputs."""
        for tensor in tensors:
            self.trace.outputs.update(self._record(tensor))

    def forget(self, tensor: torch.Tensor) -> None:
        """Take a tensor's storage for dead now: it lies outside the allocator."""
        for number in self._record(tensor):
            if number not in self._forgotten:
                self._forgotten.add(number)
                self.trace.died(number)

    def _claim(self, numbers: Iterable[int], component: Component) -> None:
        if self._tracing:
            for number in numbers:
                self.trace.components[number] = component
                self._claimed.add(number)

    def _claim_copy(self, source: torch.Tensor, copy: torch.Tensor) -> None:
        """Autocast's 16-bit copies of weights are temporaries, though autograd keeps them."""
        kinds = {self.trace.components[number] for number in self._record(source)}
        if kinds & {"weights", "adapters"}:
            self.claim([copy], "temporaries")

    def _record(self, tensor: torch.Tensor) -> list[int]:
        numbers: list[int] = []
        if _device_of(tensor).type != self._device_type:
            return numbers
        for storage in get_untyped_storages(tensor):
            key = storage._cdata
            number = self._numbers.get(key)
            if number is None:
                number = self._born(tensor, storage.size())
                self._numbers[key] = number
                ended = weakref.finalize(storage, self._died, key, number, storage.size())
                ended.atexit = False
            numbers.append(number)
        return numbers

    def _born(self, tensor: torch.Tensor, size: int) -> int:
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        if not self._tracing:
            return _UNTRACED
        return self.trace.born(size, self._first_guess(tensor))

    def _first_guess(self, tensor: torch.Tensor) -> Component:
        """What a storage is for, until something claims it."""
        if tensor.dim() > 1 and tensor.shape[-1] == self._vocab_size:
            return "logits"
        # Only checkpointing computes with gradients enabled while backward runs.
        recomputed = self.phase == "backward" and torch.is_grad_enabled()
        return "activations" if recomputed else "temporaries"

    def _died(self, key: int, number: int, size: int) -> None:
        if self._numbers.get(key) == number:
            del self._numbers[key]
        self.live_bytes -= size
        if self._tracing and number not in self._forgotten:
            self.trace.died(number)


def _is_sole(gradient: torch.Tensor) -> bool:
    """Whether nothing else holds a gradient, whose memory is in one piece."""
    owners = torch._C._storage_Use_Count(gradient.untyped_storage()._cdata)
    return owners == _SOLE_OWNER and is_non_overlapping_and_dense_or_false(gradient)


def _is_autograds_own() -> bool:
    """Whether the engine itself is adding, not a backward function that is written in Python."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name in _ON_THE_WAY:
        frame = frame.f_back
    return frame is None or frame.f_code.co_name == "_engine_run_backward"


def _device_of(tensor: torch.Tensor) -> torch.device:
    """Return a tensor's device; asked the usual way, a fake tensor dispatches an operation."""
    return tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device
