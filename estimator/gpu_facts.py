"""Facts about a GPU generation that a step's memory depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from estimator.architecture import Architecture, NotModelled
from estimator.gpus import Gpu
from estimator.models import resolve_model
from estimator.plan import BYTES_PER_VALUE, FLASH_CAPABILITY, FineTunePlan
from estimator.problems import InputError

_KIB = 2**10

_DEFAULT_CAPABILITY = 8.0

_CUDNN_CAPABILITIES = (9.0, 10.0)

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
    keeps every score. Assumption: cuDNN's kernel is not preferred (:func:`cudnn_assumption`).

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
    if itemsize == 2 and not masked and head_dim <= 256 and has_flash(gpu):
        return "flash"
    return "math" if grouped else "efficient"


def plan_attention(plan: FineTunePlan, gpu: Gpu, *, head_dim: int, is_grouped: bool) -> str | None:
    """Return the attention kernel of the plan's step on a GPU, as :func:`attention_backend` does.

    Args:
        plan: Its dtypes decide what the queries are stored in, its ``padded`` whether there is
            a mask, with which transformers expands the key heads.
        gpu: Where it would run, in place of the plan's own.
        head_dim: Size of one head.
        is_grouped: Whether the model has fewer key heads than query heads.

    Returns:
        flash, efficient, math or eager; None where the plan's kernel does not exist on this GPU.
    """
    if plan.attention == "eager":
        return "eager"
    itemsize = 4 if plan.prepares_kbit else BYTES_PER_VALUE[plan.weights_dtype]
    backend = attention_backend(
        plan,
        gpu=gpu,
        itemsize=2 if plan.autocast_dtype != "none" else itemsize,
        head_dim=head_dim,
        masked=plan.padded,
        grouped=is_grouped and not plan.padded,
    )
    return None if backend == "flash" and not has_flash(gpu) else backend


def cudnn_assumption(attention: str | None, gpu: Gpu) -> str | None:
    """Return the sentence that a reading with flash attention owes where cuDNN may be preferred.

    Source: ``check_prefer_cudnn_attention`` in PyTorch's ``sdp_utils.cpp``: where PyTorch and
    cuDNN are recent, compute capabilities 9.0 and 10.0 take cuDNN's kernel first. It keeps what
    flash keeps, the output and one fp32 number per query and head.
    """
    if attention != "flash" or capability(gpu) not in _CUDNN_CAPABILITIES:
        return None
    return (
        f"On {gpu.name} recent PyTorch may prefer cuDNN's attention kernel to flash: it keeps "
        "about the same, and its workspace is not counted."
    )


def has_flash(gpu: Gpu) -> bool:
    """Return whether there are flash attention kernels for a GPU: Ampere or newer."""
    return capability(gpu) >= FLASH_CAPABILITY


def same_kernels(plan: FineTunePlan, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Return the GPUs on which the plan's step takes the kernels that it takes on its own GPU.

    A reading for the plan's GPU holds on these: same attention kernel, same cuBLAS workspace. Of
    a model whose heads nobody knows, only GPUs of the same side of Ampere are taken.

    Args:
        plan: What is trained, and the GPU that it was read for.
        gpus: Which to choose from.

    Returns:
        The plan's own GPU first, then those of ``gpus`` that are like it, each name once.
    """
    heads = _heads(plan)
    own = plan.gpu_spec
    like_own = _kernels(plan, own, heads)
    alike = [gpu for gpu in gpus if _kernels(plan, gpu, heads) == like_own]
    by_name: dict[str, Gpu] = {}
    for gpu in (own, *alike):
        by_name.setdefault(gpu.name, gpu)
    return tuple(by_name.values())


def _kernels(
    plan: FineTunePlan, gpu: Gpu, heads: tuple[int, bool] | None
) -> tuple[str | None, bool, int]:
    attention = "unknown"
    if heads:
        attention = plan_attention(plan, gpu, head_dim=heads[0], is_grouped=heads[1])
    # whose kernels are known differ by them alone; else by the generation that brought flash
    newer = not heads and has_flash(gpu)
    return attention, newer, cublas_workspace_bytes(gpu)


def _heads(plan: FineTunePlan) -> tuple[int, bool] | None:
    """Return the size of one head and whether key heads are grouped, None where unknown."""
    try:
        config = resolve_model(plan.model).config
    except InputError:
        return None
    try:
        architecture = Architecture.from_config(config)
    except NotModelled:
        return _heads_in(config)
    except InputError:
        return None
    is_grouped = architecture.num_key_value_heads < architecture.num_attention_heads
    return architecture.head_dim, is_grouped


def _heads_in(config: dict[str, Any]) -> tuple[int, bool] | None:
    """Return what :func:`_heads` does from the usual keys of a config.json."""
    num_heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    head_dim, key_heads = config.get("head_dim"), config.get("num_key_value_heads")
    if not isinstance(num_heads, int) or num_heads < 1:
        return None
    if not isinstance(head_dim, int):
        head_dim = hidden // num_heads if isinstance(hidden, int) else None
    return (head_dim, isinstance(key_heads, int) and key_heads < num_heads) if head_dim else None


def context_bytes(gpu: Gpu) -> int | None:
    """Return the size of a CUDA context, None where nobody measured it for this GPU."""
    return _CONTEXT_BYTES.get(gpu.name)
