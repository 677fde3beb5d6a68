"""Records the birth and death of every tensor storage, on fake and on real tensors alike."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.distributed._tools.common_utils import get_untyped_storages
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from estimator.estimate import Component, Phase
from estimator.trace import Trace


class StorageRecorder(TorchDispatchMode):
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
        self._numbers: dict[int, int] = {}
        self._claimed: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and record the storages it returns."""
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self._record(value)
        if func is torch.ops.aten._to_copy.default:
            self._claim_copy(args[0], result)
        return result

    def mark(self, phase: Phase) -> None:
        """Record that ``phase`` begins."""
        self.trace.mark(phase)

    def claim(self, tensors: Iterable[torch.Tensor | None], component: Component) -> None:
        """Say what the storages of some tensors are for; the last claim holds."""
        for tensor in tensors:
            if tensor is not None:
                for number in self._record(tensor):
                    self.trace.components[number] = component
                    self._claimed.add(number)

    def claim_saved(self, tensor: torch.Tensor, component: Component) -> None:
        """Say what a storage is for that autograd keeps, unless something has claimed it."""
        for number in self._record(tensor):
            if number not in self._claimed and self.trace.components[number] == "temporaries":
                self.trace.components[number] = component
                self._claimed.add(number)

    def _claim_copy(self, source: torch.Tensor, copy: torch.Tensor) -> None:
        """Autocast's 16-bit copies of weights are temporaries, though autograd keeps them."""
        kinds = {self.trace.components[number] for number in self._record(source)}
        if kinds & {"weights", "adapters"}:
            self.claim([copy], "temporaries")

    def _record(self, tensor: torch.Tensor) -> list[int]:
        numbers: list[int] = []
        if tensor.device.type != self._device_type:
            return numbers
        for storage in get_untyped_storages(tensor):
            key = storage._cdata
            number = self._numbers.get(key)
            if number is None:
                wide = tensor.dim() > 1 and tensor.shape[-1] == self._vocab_size
                number = self.trace.born(storage.size(), "logits" if wide else "temporaries")
                self._numbers[key] = number
                weakref.finalize(storage, self._died, key, number).atexit = False
            numbers.append(number)
        return numbers

    def _died(self, key: int, number: int) -> None:
        if self._numbers.get(key) == number:
            del self._numbers[key]
        self.trace.died(number)
