"""What single CUDA kernels keep, and what they take and give back within one operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch user knows

from estimator.gpus import Gpu
from trainer.cuda_attention import efficient_backward_temporaries, flash_backward_temporaries
from trainer.dispatch import TracingMode
from trainer.untyped import bnb

_aten = torch.ops.aten

_SORTED_FROM_IDS = 3072  # more ids than this are sorted before their gradients are added up
_ROWS_PER_SUM = 10  # NROWS_PER_THREAD
_NORM_CHUNK = 65_536  # values of which a norm's kernel makes one partial result
_GROUPED_ALIGNMENT_BYTES = 16  # a row of grouped_mm's result begins at a multiple of this


def dropout(
    input: torch.Tensor,  # noqa: A002  torch's own name: callers pass it by keyword
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    """CUDA's fused dropout keeps a mask of bools; the CPU's keeps one of the input's type."""
    del inplace
    return _aten.native_dropout(input, p, True)[0] if training and p > 0 else input


class Softmax:
    """CUDA turns fp16 into fp32 within the kernel; the CPU, and CUDA with bf16, make a copy first.

    Source: ``softmax`` in ``aten/src/ATen/native/SoftMax.cpp``.

    Attributes:
        calls: How often it was called, recomputation included.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._plain = F.softmax

    def __call__(
        self,
        input: torch.Tensor,  # noqa: A002  torch's own name: callers pass it by keyword
        dim: int | None = None,
        _stacklevel: int = 3,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Take the softmax; parameters are PyTorch's."""
        self.calls += 1
        if dtype is None and torch.is_autocast_enabled("cpu"):
            dtype = torch.float32  # CUDA's autocast asks for it
        if dtype is torch.float32 and input.dtype is torch.float16:
            return _HalfToFloatSoftmax.apply(input)
        return self._plain(input, dim=dim, _stacklevel=_stacklevel, dtype=dtype)


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


def matmul_8_bit(
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


class KernelTemporaries(TracingMode):
    """A dispatch mode in which operations take what CUDA's kernels take while they run.

    Outputs come first, temporaries after them: the order decides where the allocator puts them.
    """

    def __init__(self, gpu: Gpu, on_multiply: Callable[[], None] = lambda: None) -> None:
        """Prepare the mode.

        Args:
            gpu: Whose kernels run.
            on_multiply: Told of every matrix product, when its result is there.
        """
        super().__init__()
        self.gpu = gpu
        self._on_multiply = on_multiply

    def operate(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the operation, with its temporaries alive until it returns."""
        run = _REPLACED.get(func) or func
        result = run(*args, **kwargs)
        if func in _MULTIPLICATIONS:
            self._on_multiply()
        if func is _aten._softmax_backward_data.default:
            _ = args[0] * args[1]  # softmax_backward_cuda_out's `tmp`
        elif func is _aten._scaled_dot_product_flash_attention_backward.default:
            _ = flash_backward_temporaries(args[1], args[2])
        elif func is _aten._scaled_dot_product_efficient_attention_backward.default:
            _ = efficient_backward_temporaries(self.gpu, *args[1:4])
        elif func is _aten.embedding_dense_backward.default:
            _ = _embedding_sums(*args[:3])
        elif func is _aten._foreach_norm.Scalar:
            _ = _partial_norms(args[0])
        return result


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
    """Above a few hundred tokens bitsandbytes makes the 16-bit weight, then multiplies.

    Source: ``bitsandbytes/backends/cuda/ops.py`` 0.50: always above 512 tokens (1536 for weights
    under 4 M values), mostly above 64 to 256. Known error: below that the forward pass is read
    one 16-bit weight too high; backward, where the peak lies, makes that weight in any case.
    """
    if absmax_8bit is not None and absmax_code is not None and absmax_offset is not None:
        scales = torch.ops.bitsandbytes.dequantize_blockwise.default(
            absmax_8bit, absmax, absmax_code, 256, torch.float32
        )
        absmax = scales + absmax_offset
    full = torch.ops.bitsandbytes.dequantize_4bit.default(
        weight, absmax, blocksize, quant_type, list(shape), inputs.dtype
    )
    return F.linear(inputs, full, bias)


def _grouped_mm(
    left: torch.Tensor,
    right: torch.Tensor,
    offsets: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The experts' product: CUDA takes 32 and 16 bits, where the traced shapes know bf16 alone.

    CUDA's kernel is for bf16; anything else goes group by group through cuBLAS into the same
    output, whose rows are aligned. Source: ``_grouped_mm_cuda`` in
    ``aten/src/ATen/native/cuda/GroupedBlas.cpp`` and ``create_grouped_gemm_output_tensor`` in
    ``aten/src/ATen/native/GroupedMMUtils.h``.
    """
    del bias  # refused by PyTorch itself
    dtype = out_dtype or left.dtype
    *outer, columns = _grouped_shape(left, right, offsets)
    alignment = _GROUPED_ALIGNMENT_BYTES // dtype.itemsize
    width = -(-columns // alignment) * alignment
    return torch.empty(*outer, width, dtype=dtype)[..., :columns]


def _grouped_shape(
    left: torch.Tensor, right: torch.Tensor, offsets: torch.Tensor | None
) -> tuple[int, ...]:
    groups = () if offsets is None else (offsets.shape[0],)
    if left.dim() == right.dim():  # both 2: a product for each group; both 3: one for each pair
        return (*(groups or left.shape[:1]), left.shape[-2], right.shape[-1])
    return (left.shape[-2], right.shape[-1])


def _embedding_sums(
    gradient: torch.Tensor, ids: torch.Tensor, vocab_size: int
) -> list[torch.Tensor]:
    """An embedding's backward sorts many ids, and sums in 32 bits what tokens of one kind get.

    It reserves a row for every kind of token that there could be, and for every tenth token.
    Source: ``embedding_dense_backward_cuda`` in ``aten/src/ATen/native/cuda/Embedding.cu`` and
    ``embedding_backward_cuda_kernel`` in ``EmbeddingBackwardKernel.cu``.
    """
    count = ids.numel()
    if count <= _SORTED_FROM_IDS:
        return []
    kinds = min(count, vocab_size)
    rows = kinds + count // _ROWS_PER_SUM
    lists = [count, count, count, kinds, kinds, rows]  # sorted, origins, where each kind begins ...
    sums = torch.empty(rows, gradient.shape[-1], dtype=torch.float32)
    return [sums, *(torch.empty(length, dtype=ids.dtype) for length in lists)]


_REPLACED: dict[Any, Callable[..., Any]] = {
    torch.ops.bitsandbytes.gemm_4bit.default: _dequantize_and_multiply,
    _aten._grouped_mm.default: _grouped_mm,
}
_MULTIPLICATIONS = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    *_REPLACED,
}


def _partial_norms(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Clipping's norms: for every tensor as many partial results as the largest one needs.

    Source: ``foreach_tensor_norm_cuda`` in ``aten/src/ATen/native/cuda/ForeachReduceOp.cu``.
    """
    chunks = max(-(-tensor.numel() // _NORM_CHUNK) for tensor in tensors)
    return torch.empty(len(tensors) * chunks, dtype=torch.float32)
