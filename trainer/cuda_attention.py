"""Attention as CUDA runs it: which kernel, what it keeps for backward, what it takes meanwhile."""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch user knows

from estimator.gpu_facts import attention_backend, largest_efficient_head
from estimator.gpus import Gpu
from estimator.plan import FineTunePlan
from trainer.skeleton import DTYPES

_aten = torch.ops.aten

_FLOAT_TYPES = {dtype: name for name, dtype in DTYPES.items()}
_MASK_ALIGNMENT = 8  # the memory-efficient kernel reads masks whose strides are multiples of this
_EFFICIENT_BLOCK = 64  # queries, and keys, of one of its blocks
_SPLIT_BLOCKS = 200  # it splits keys into no more parts than this, over batch and heads


class Attention:
    """``scaled_dot_product_attention`` as CUDA dispatches it.

    Attributes:
        calls: How often each kernel was called, recomputation included.
    """

    def __init__(self, plan: FineTunePlan) -> None:
        self.plan = plan
        self.calls: Counter[str] = Counter()

    def __call__(
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
        """Call the kernel that CUDA would; parameters are PyTorch's."""
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
            if attn_mask is not None and attn_mask.is_floating_point():
                attn_mask = attn_mask.to(dtype)
        fewer_key_heads = key.shape[1] != query.shape[1]
        backend = attention_backend(
            self.plan,
            gpu=self.plan.gpu_spec,
            float_type=_FLOAT_TYPES[query.dtype],
            head_dim=query.shape[-1],
            value_head_dim=value.shape[-1],
            masked=attn_mask is not None,
            grouped=fewer_key_heads,
            broadcast=fewer_key_heads and not enable_gqa,
            dropout=dropout_p > 0,
        )
        self.calls[backend] += 1
        factor = query.shape[-1] ** -0.5 if scale is None else scale
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
    head_dim, value_head_dim = query.shape[-1], value.shape[-1]
    # The kernel wants heads of one size in multiples of eight; the FlashAttention 2 package is
    # given narrower values padded by the model.
    width = max(head_dim, value_head_dim)
    width += -width % 8
    query, key, value = (_padded(tensor, width) for tensor in (query, key, value))
    output = _aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, False, scale=scale
    )[0]
    return output if value_head_dim == width else output[..., :value_head_dim]


def _padded(tensor: torch.Tensor, width: int) -> torch.Tensor:
    missing = width - tensor.shape[-1]
    return F.pad(tensor, (0, missing)) if missing else tensor


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
        mask = _additive_mask(mask, query.dtype).expand(*query.shape[:3], key.shape[2])
    needs_grad = query.requires_grad or key.requires_grad or value.requires_grad
    return _aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, needs_grad, dropout_p, is_causal, scale=scale
    )[0]


def _additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask to add to the scores, padded if its rows are not aligned.

    Source: ``convert_boolean_attn_mask`` and ``pad_bias`` in
    ``aten/src/ATen/native/transformers/attention.cpp``.
    """
    if mask.dtype == torch.bool:
        allowed = torch.zeros((), dtype=dtype)
        forbidden = torch.full((), float("-inf"), dtype=dtype)
        mask = torch.where(mask, allowed, forbidden)
    length = mask.shape[-1]
    missing = -length % _MASK_ALIGNMENT
    return F.pad(mask, (0, missing))[..., :length] if missing else mask


def flash_backward_temporaries(query: torch.Tensor, key: torch.Tensor) -> list[torch.Tensor]:
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


def efficient_backward_temporaries(
    gpu: Gpu, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> list[torch.Tensor]:
    """The memory-efficient backward: row sums, and a workspace that holds dq in 32 bits.

    Where a head does not fit a block's registers, 16-bit dk and dv are summed in the workspace
    too. Row sums of 32-bit inputs are not the kernel's work: a product as large as the output
    comes first.

    Source: ``workspace_size`` in ``mem_eff_attention/kernel_backward.h``, the kernels' list in
    ``mem_eff_attention/kernels/cutlassB.h`` and the splitting of keys in
    ``attention_backward.cu``, all under ``aten/src/ATen/native/transformers/cuda``, torch 2.13.
    Assumption: blocks of 64; larger ones round up a little more.
    """
    batch, heads, length, head_dim = query.shape
    width = _blocks(head_dim) * _EFFICIENT_BLOCK
    value_width = _blocks(value.shape[-1]) * _EFFICIENT_BLOCK
    elements = _blocks(length) * _EFFICIENT_BLOCK * width
    half = query.dtype != torch.float32
    if half and max(head_dim, value.shape[-1]) > largest_efficient_head(gpu):
        splits = max(1, min(_blocks(key.shape[2]), _SPLIT_BLOCKS // (batch * heads)))
        elements += splits * _EFFICIENT_BLOCK * (width + value_width)
    product = []
    if not half:
        product = [torch.empty(batch, heads, length, value.shape[-1], dtype=torch.float32)]
    row_sums = torch.empty(batch, heads, length, dtype=torch.float32)
    del product
    return [row_sums, torch.empty(batch * heads * elements, dtype=torch.float32)]


def _blocks(size: int) -> int:
    return -(-size // _EFFICIENT_BLOCK)
