"""What every dispatch mode of a trace shares."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode


class TracingMode(TorchDispatchMode):
    """A dispatch mode that sees every operation, short of the questions about fake tensors."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled; skipping would cost a detour for each operation

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Pass an operation to :meth:`operate`."""
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # asked for most often of all: no need to pass it on
        return self.operate(func, args, kwargs or {})

    def operate(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation and return its result."""
        raise NotImplementedError
