"""Facts about a GPU generation that a step's memory depends on."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from estimator.contradictions import FLASH_CAPABILITY
from estimator.gpus import Gpu
from estimator.plan import FineTunePlan

_KIB = 2**10

_DEFAULT_CAPABILITY = 8.0

_FLASH_HEAD_DIM = 256

_CUDNN_CAPABILITIES = (9.0, 10.0)

_CONTEXTS = Path(__file__).with_name("data") / "cuda_contexts.csv"

_MIB = 2**20


def capability(gpu: Gpu) -> float:
    """Return the compute capability; Ampere's where the catalogue has none (AMD's GPUs)."""
    return gpu.compute_capability or _DEFAULT_CAPABILITY


def cublas_workspace_bytes(gpu: Gpu) -> int:
    """Return the size of one cuBLAS workspace, of which each thread that multiplies has one.

    Source: ``getChosenWorkspaceSize`` in ``aten/src/ATen/cuda/CublasHandlePool.cpp``, torch 2.13:
    32 MiB on Hopper and Blackwell data-centre GPUs, else 2 x 4096 KiB + 8 x 16 KiB.
    """
    return 32 * 1024 * _KIB if capability(gpu) in (9.0, 10.0) else 8320 * _KIB


def attention_backend(
    plan: FineTunePlan,
    *,
    gpu: Gpu,
    float_type: str,
    head_dim: int,
    masked: bool,
    grouped: bool,
    value_head_dim: int | None = None,
    broadcast: bool = False,
    dropout: bool = False,
) -> str:
    """Return the kernel that PyTorch's scaled_dot_product_attention takes on a GPU.

    Source: ``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp``, torch 2.13. Flash wants 16
    bits, no mask, heads of one size up to 256 and Ampere or newer, and cannot train heads of 193
    to 224 (with dropout, to 256) on the consumer generations. The memory-efficient kernel takes 32
    bits, masks and values of another size, but neither fewer key heads than query heads, nor bf16
    before Ampere, nor heads whose rows are not aligned; the math path takes anything and keeps
    every score. Assumption: cuDNN's kernel is not preferred (:func:`cudnn_assumption`).

    Args:
        plan: Its ``attention`` and ``attention_backend`` can fix the answer.
        gpu: Where it runs.
        float_type: What the queries are stored in.
        head_dim: Size of one head of the queries and keys.
        masked: Whether an attention mask is passed.
        grouped: Whether there are fewer key heads than query heads and they are not expanded.
        value_head_dim: Size of one head of the values, where it is another.
        broadcast: Whether the fewer key heads are passed without ``enable_gqa``.
        dropout: Whether scores are dropped.

    Returns:
        flash, efficient or math.
    """
    if plan.attention == "flash_attention_2":
        return "flash"
    if plan.attention_backend != "auto":
        return plan.attention_backend
    heads = (head_dim, value_head_dim or head_dim)
    is_flash = float_type != "fp32" and not masked and _flash_takes(heads, dropout, gpu)
    if is_flash and not broadcast:
        return "flash"
    if grouped or (float_type == "bf16" and not has_flash(gpu)):
        return "math"
    alignment = _alignment(float_type, gpu)
    return "math" if any(size % alignment for size in heads) else "efficient"


def _flash_takes(heads: tuple[int, int], dropout: bool, gpu: Gpu) -> bool:
    """Source: ``check_head_dim_size_flash`` and the constraint on 8.6, 8.9 and 12.x."""
    head_dim, value_head_dim = heads
    if head_dim != value_head_dim or head_dim > _FLASH_HEAD_DIM or not has_flash(gpu):
        return False
    if not 8.6 <= capability(gpu) <= 8.9 and not 12.0 <= capability(gpu) <= 12.1:
        return True
    return head_dim <= 192 or (head_dim > 224 and not dropout)


def _alignment(float_type: str, gpu: Gpu) -> int:
    """Source: ``minimum_gemm_alignment``, in values of one head."""
    if float_type != "fp32":
        return 8 if capability(gpu) >= 7.0 else 1
    return 4 if capability(gpu) >= 8.0 else 1


def plan_attention(plan: FineTunePlan, gpu: Gpu, *, head_dim: int, is_grouped: bool) -> str | None:
    """Return the attention kernel of the plan's step on a GPU, as :func:`attention_backend` does.

    Args:
        plan: Its dtypes decide what the queries are stored in, its ``padded`` whether there is
            a mask, with which transformers expands the key heads.
        gpu: Where it would run, in place of the plan's own; one without bf16 would run fp16.
        head_dim: Size of one head.
        is_grouped: Whether the model has fewer key heads than query heads.

    Returns:
        flash, efficient, math or eager; None where the plan's kernel does not exist on this GPU.
    """
    if plan.attention == "eager":
        return "eager"
    float_type: str = "fp32" if plan.prepares_kbit else plan.weights_dtype
    if plan.autocast_dtype != "none":
        float_type = plan.autocast_dtype
    if float_type == "bf16" and not gpu.has_bf16 and gpu.name != plan.gpu_spec.name:
        float_type = "fp16"
    backend = attention_backend(
        plan,
        gpu=gpu,
        float_type=float_type,
        head_dim=head_dim,
        masked=plan.padded,
        grouped=is_grouped and not plan.padded,
    )
    return None if backend == "flash" and not has_flash(gpu) else backend


def cudnn_assumption(attention: str | None, gpu: Gpu) -> str | None:
    """Return the sentence that a reading with fused attention owes where cuDNN may be preferred.

    Source: ``check_prefer_cudnn_attention`` in PyTorch's ``sdp_utils.cpp``: where PyTorch and
    cuDNN are recent, compute capabilities 9.0 and 10.0 take cuDNN's kernel first, masks and
    values of another size included. It keeps what flash keeps, the output and one fp32 number per
    query and head.

    Args:
        attention: The kernel that was read, or several with commas between them.
        gpu: Where it runs.
    """
    fused = {"flash", "efficient"} & set((attention or "").split(", "))
    if not fused or capability(gpu) not in _CUDNN_CAPABILITIES:
        return None
    return (
        f"On {gpu.name} recent PyTorch may prefer cuDNN's attention kernel to "
        f"{' and '.join(sorted(fused))}: it keeps about the same, and its workspace is not counted."
    )


def has_flash(gpu: Gpu) -> bool:
    """Return whether there are flash attention kernels for a GPU: Ampere or newer."""
    return capability(gpu) >= FLASH_CAPABILITY


def has_grouped_mm(gpu: Gpu) -> bool:
    """Return whether PyTorch multiplies groups of rows by their own matrices on a GPU.

    Source: ``_can_use_grouped_mm`` in ``transformers/integrations/moe.py`` 5.23: Ampere or newer;
    before it transformers loops over the experts.
    """
    return capability(gpu) >= FLASH_CAPABILITY


def largest_efficient_head(gpu: Gpu) -> int:
    """Return the largest head with which the efficient kernel's backward needs no workspace.

    Source: ``mem_eff_attention/kernels/cutlassB.h``, torch 2.13: 128 wants more shared memory
    than Turing and the consumer generations have.
    """
    generation = capability(gpu)
    if generation in (8.6, 8.9):
        return 96
    return 64 if generation < 8.0 or generation >= 12.0 else 128


def context_bytes(gpu: Gpu) -> int | None:
    """Return the size of a CUDA context, None where no measurement was found for this GPU."""
    row = _contexts().get(gpu.name)
    return None if row is None else round(float(row["context_mib"]) * _MIB)


def context_assumption(gpu: Gpu) -> str:
    """Return the sentence that says where a context's size is from, and how sure it is."""
    row = _contexts().get(gpu.name)
    if row is None:
        return f"The size of a CUDA context on {gpu.name} is not known, so neither is the total."
    return (
        f"The CUDA context on {gpu.name} is {float(row['context_mib']):.0f} MiB "
        f"({row['confidence']} confidence): {row['method']}; {row['source']}."
    )


@cache
def _contexts() -> dict[str, dict[str, str]]:
    with _CONTEXTS.open(encoding="utf-8", newline="") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}
