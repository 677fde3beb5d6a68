"""Facts about a GPU generation that a step's memory depends on."""

from __future__ import annotations

from estimator.gpus import Gpu
from estimator.plan import FineTunePlan

_KIB = 2**10

_DEFAULT_CAPABILITY = 8.0

_CONTEXT_BYTES = {
    # fitcheck-llm 0.3.1, data/measurements (MIT): device used less reserved, torch 2.10 to 2.14
    "Tesla T4": 147_718_144,
}


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
    plan: FineTunePlan, *, gpu: Gpu, itemsize: int, head_dim: int, masked: bool, grouped: bool
) -> str:
    """Return the kernel that PyTorch's scaled_dot_product_attention takes on a GPU.

    Source: ``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp``, torch 2.13. Flash wants 16
    bits, no mask, head_dim up to 256 and Ampere or newer; the memory-efficient kernel takes 32
    bits and masks, but not fewer key heads than query heads; the math path takes anything and
    keeps every score. Assumption: cuDNN's kernel is not preferred.

    Args:
        plan: Its ``attention`` and ``attention_backend`` can fix the answer.
        gpu: Where it runs.
        itemsize: Bytes of one element of the queries.
        head_dim: Size of one head.
        masked: Whether an attention mask is passed.
        grouped: Whether there are fewer key heads than query heads and they are not expanded.

    Returns:
        flash, efficient or math.
    """
    if plan.attention == "flash_attention_2":
        return "flash"
    if plan.attention_backend != "auto":
        return plan.attention_backend
    if itemsize == 2 and not masked and head_dim <= 256 and capability(gpu) >= 8.0:
        return "flash"
    return "math" if grouped else "efficient"


def context_bytes(gpu: Gpu) -> int | None:
    """Return the size of a CUDA context, None where nobody measured it for this GPU."""
    return _CONTEXT_BYTES.get(gpu.name)
