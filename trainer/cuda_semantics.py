"""Makes a step that is traced on fake CPU tensors allocate what it would allocate on CUDA.

Each entry is one place where the CPU's path and CUDA's differ in memory, checked against the
sources of torch 2.13, transformers 5.23 and bitsandbytes 0.50. What is replaced is put back when
the context ends.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch user knows
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

from estimator.gpu_facts import attention_backend
from estimator.plan import FineTunePlan
from trainer.skeleton import DTYPES
from trainer.untyped import bnb

_aten = torch.ops.aten


_FLOAT_TYPES = {dtype: name for name, dtype in DTYPES.items()}
_PAGED_FROM_ELEMENTS = 100_000  # bitsandbytes pages states of at least this size


@contextlib.contextmanager
def fake_tensor_semantics(forget: Callable[[torch.Tensor], None] | None) -> Iterator[None]:
    """What fake tensors need whatever the device: they have no values to look at.

    transformers looks at position ids for packed sequences, and under tracing always builds a
    mask; the 8-bit optimizers fill a table of 256 values.

    Args:
        forget: Called with what a CUDA device keeps outside the caching allocator (the states of
            a paged optimizer lie in managed memory); None where no CUDA device is pretended.
    """
    optimizer_class = bnb.optim.optimizer.Optimizer8bit

    def fill_with_fakes(optimizer: Any) -> None:
        for name in ("dynamic", "udynamic"):
            optimizer.name2qmap[name] = torch.empty(256)

    def state_buffer(
        optimizer: Any, parameter: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        buffer = torch.zeros_like(parameter, dtype=dtype)
        if forget and optimizer.is_paged and parameter.numel() >= _PAGED_FROM_ELEMENTS:
            forget(buffer)
        return buffer

    with (
        mock.patch.object(masking_utils, "find_packed_sequence_indices", return_value=None),
        mock.patch.object(optimizer_class, "fill_qmap", fill_with_fakes),
        mock.patch.object(optimizer_class, "get_state_buffer", state_buffer),
    ):
        yield


class CudaSemantics:
    """The context in which CPU tracing takes CUDA's paths.

    Attributes:
        attention_calls: How often each attention kernel was called, recomputation included.
    """

    def __init__(self, plan: FineTunePlan, on_multiply: Callable[[], None]) -> None:
        """Describe the differences for a plan.

        Args:
            plan: Its GPU and attention decide which kernels run.
            on_multiply: Told of every matrix product, when its result is there.
        """
        self.plan = plan
        self.attention_calls: Counter[str] = Counter()
        self._on_multiply = on_multiply

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Replace what differs; functions are patched because modes are off during backward."""
        with (
            mock.patch.object(F, "scaled_dot_product_attention", self._attention),
            mock.patch.object(F, "dropout", _dropout),
            mock.patch.object(F, "softmax", _softmax),
            mock.patch.object(bnb, "matmul", _matmul_8_bit),
            mock.patch.object(torch, "is_autocast_enabled", _is_autocast_enabled),
            _KernelTemporaries(self._on_multiply),
        ):
            yield

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
        head_dim = query.shape[-1]
        backend = attention_backend(
            self.plan,
            gpu=self.plan.gpu_spec,
            float_type=_FLOAT_TYPES[query.dtype],
            head_dim=head_dim,
            masked=attn_mask is not None,
            grouped=enable_gqa and key.shape[1] != query.shape[1],
        )
        self.attention_calls[backend] += 1
        factor = head_dim**-0.5 if scale is None else scale
        if backend == "flash":
            return _flash(query, key, value, dropout_p, is_causal, factor)
        if backend == "efficient":
            return _efficient(query, key, value, attn_mask, dropout_p, is_causal, factor)
        with torch.autocast("cpu", enabled=False):  # CUDA casts once, at the door
            return _aten._scaled_dot_product_attention_math(
                query,
                key,
                value,
                attn_mask,
                dropout_p,
                is_causal,
                scale=factor,
                enable_gqa=enable_gqa,
            )[0]


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float,
    is_causal: bool,
    scale: float,
) -> torch.Tensor:
    head_dim = query.shape[-1]
    padding = -head_dim % 8  # the kernel wants heads in multiples of eight
    if padding:
        query, key, value = (F.pad(tensor, (0, padding)) for tensor in (query, key, value))
    output = _aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, False, scale=scale
    )[0]
    return output[..., :head_dim] if padding else output


def _efficient(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    if mask is not None:
        if mask.dtype == torch.bool:
            allowed = torch.zeros((), dtype=query.dtype)
            forbidden = torch.full((), float("-inf"), dtype=query.dtype)
            mask = torch.where(mask, allowed, forbidden)
        mask = mask.expand(*query.shape[:3], key.shape[2])
    needs_grad = query.requires_grad or key.requires_grad or value.requires_grad
    return _aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, needs_grad, dropout_p, is_causal, scale=scale
    )[0]


def _dropout(
    input: torch.Tensor,  # noqa: A002  torch's own name: callers pass it by keyword
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    """CUDA's fused dropout keeps a mask of bools; the CPU's keeps one of the input's type."""
    del inplace
    return _aten.native_dropout(input, p, True)[0] if training and p > 0 else input


_plain_is_autocast_enabled = torch.is_autocast_enabled


def _is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Asked without a device, as peft asks before it casts an adapter's input, CUDA is meant."""
    return _plain_is_autocast_enabled(device_type)


_plain_softmax = F.softmax


def _softmax(
    input: torch.Tensor,  # noqa: A002  torch's own name: callers pass it by keyword
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """CUDA turns 16 bits into 32 within the kernel; the CPU makes a 32-bit copy first."""
    if dtype is torch.float32 and input.dtype in (torch.float16, torch.bfloat16):
        return _HalfToFloatSoftmax.apply(input)
    return _plain_softmax(input, dim=dim, _stacklevel=_stacklevel, dtype=dtype)


class _HalfToFloatSoftmax(torch.autograd.Function):
    """The memory of CUDA's half-to-float softmax: shapes and lives, not values."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(scores, dtype=torch.float32)
        ctx.save_for_backward(output)
        ctx.dtype = scores.dtype
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (output,) = ctx.saved_tensors
        result = torch.empty_like(output, dtype=ctx.dtype)  # first: a structured kernel's output
        _ = grads[0] * output  # softmax_backward_cuda_out's `tmp`
        return result


def _matmul_8_bit(
    A: torch.Tensor,  # noqa: N803  bitsandbytes' own name
    B: torch.Tensor,  # noqa: N803
    out: torch.Tensor | None = None,
    state: Any = None,
    threshold: float = 0.0,
    bias: torch.Tensor | None = None,
) -> Any:
    """Traced without outliers: how many columns are kept in 16 bits depends on values."""
    del threshold
    state = state or bnb.MatmulLtState()
    state.threshold = 0.0
    return bnb.autograd._functions.MatMul8bitLt.apply(A, B, out, bias, state)


class _KernelTemporaries(TorchDispatchMode):
    """What CUDA's kernels take and give back within one operation."""

    def __init__(self, on_multiply: Callable[[], None]) -> None:
        super().__init__()
        self._on_multiply = on_multiply

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.bitsandbytes.gemm_4bit.default:
            return _dequantize_and_multiply(*args, **kwargs)
        if func is _aten._softmax_backward_data.default:
            result = func(*args, **kwargs)  # first: a structured kernel's output
            _ = args[0] * args[1]  # softmax_backward_cuda_out's `tmp`
            return result
        if func is _aten._scaled_dot_product_flash_attention_backward.default:
            result = func(*args, **kwargs)  # dq, dk and dv come first
            _ = _flash_backward_temporaries(*args[:3])
            return result
        result = func(*args, **kwargs)
        if func in _MULTIPLICATIONS:
            self._on_multiply()
        return result


_MULTIPLICATIONS = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
}


def _dequantize_and_multiply(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    shape: list[int],
    absmax: torch.Tensor,
    blocksize: int,
    quant_type: str,
    bias: torch.Tensor | None = None,
    absmax_8bit: torch.Tensor | None = None,
    absmax_code: torch.Tensor | None = None,
    absmax_offset: torch.Tensor | None = None,
) -> torch.Tensor:
    """Above a few hundred tokens bitsandbytes makes the 16-bit weight, then multiplies."""
    if absmax_8bit is not None and absmax_code is not None and absmax_offset is not None:
        scales = torch.ops.bitsandbytes.dequantize_blockwise.default(
            absmax_8bit, absmax, absmax_code, 256, torch.float32
        )
        absmax = scales + absmax_offset
    full = torch.ops.bitsandbytes.dequantize_4bit.default(
        weight, absmax, blocksize, quant_type, list(shape), inputs.dtype
    )
    return F.linear(inputs, full, bias)


def _flash_backward_temporaries(
    _grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor
) -> list[torch.Tensor]:
    """Flash attention's backward: a 32-bit sum for dq, row sums, and dk, dv per query head.

    Source: ``mha_bwd`` in ``aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp``.
    """
    batch, heads, length, head_dim = query.shape
    rounded_length = -(-length // 128) * 128
    rounded_head = -(-head_dim // 32) * 32
    temporaries = [
        torch.empty(batch, rounded_length, heads, rounded_head, dtype=torch.float32),
        torch.empty(batch, heads, rounded_length, dtype=torch.float32),
    ]
    if key.shape[1] != heads:
        expanded = (batch, heads, key.shape[2], head_dim)
        temporaries += [torch.empty(expanded, dtype=key.dtype) for _ in range(2)]
    return temporaries
