"""CUDA's autocast in place of the CPU's: operations that run in fp32 there, and not here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_map

FP32_OPERATIONS = (
    "exp",
    "log",
    "reciprocal",
    "rsqrt",
    "pow.Tensor_Scalar",
    "softplus",
    "layer_norm",
    "group_norm",
    "rms_norm",
    "logsumexp",
)
"""Operations whose 16-bit inputs CUDA's autocast casts to fp32, and the CPU's leaves alone.

Source: ``AT_FORALL_FP32`` in ``ATen/autocast_mode.h``, torch 2.13, as far as language
models use them.
"""

FP32_RESULTS = (
    "softmax.int",
    "log_softmax.int",
    "cumsum",
    "sum",
    "sum.dim_IntList",
    "linalg_vector_norm",
)
"""Operations that CUDA's autocast asks for an fp32 result, unless a dtype is given.

Source: ``AT_FORALL_FP32_SET_OPT_DTYPE``, as above.
"""

_HALF = (torch.float16, torch.bfloat16)


@contextlib.contextmanager
def cuda_autocast() -> Iterator[None]:
    """Give the CPU's autocast CUDA's treatment of those operations, until the context ends.

    They are registered with PyTorch's dispatcher, so that what a checkpoint computes again during
    backward takes the same path.
    """
    library = torch.library.Library("aten", "IMPL")
    try:
        for name in FP32_OPERATIONS:
            library.impl(name, _with_fp32_inputs(_operation(name)), "AutocastCPU")
        for name in FP32_RESULTS:
            library.impl(name, _with_fp32_result(_operation(name)), "AutocastCPU")
        yield
    finally:
        library._destroy()


def _operation(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _outside_autocast() -> Any:
    key = torch._C.DispatchKey.AutocastCPU
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key))


def _with_fp32_inputs(operation: Any) -> Callable[..., Any]:
    def cast(value: Any) -> Any:
        is_half = isinstance(value, torch.Tensor) and value.dtype in _HALF
        return value.to(torch.float32) if is_half else value

    def run(*args: Any, **kwargs: Any) -> Any:
        with _outside_autocast():
            return operation(*tree_map(cast, args), **tree_map(cast, kwargs))

    return run


def _with_fp32_result(operation: Any) -> Callable[..., Any]:
    def run(values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
        if not given and values.dtype in _HALF:
            kwargs["dtype"] = torch.float32
        with _outside_autocast():
            return operation(values, *args, **kwargs)

    return run
