"""Keys of a plan that cannot stand together: what is wrong, and what to change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from estimator.problems import Problem

if TYPE_CHECKING:
    from estimator.plan import FineTunePlan

FLASH_CAPABILITY = 8.0
"""The compute capability from which there are flash attention kernels: Ampere's."""


def contradictions(plan: FineTunePlan) -> Iterable[Problem]:
    """Yield what contradicts what in a plan whose keys are each possible."""
    if plan.method == "qlora" and not plan.is_quantized:
        what = "none contradicts method qlora"
        yield Problem("quantization", what, "nf4, fp4, int8", "drop the key, or use method: lora")
    if plan.is_quantized and not plan.uses_adapter:
        what = f"{plan.quantization} contradicts method {plan.method}: quantised weights are frozen"
        yield Problem("quantization", what, "none", "use method: qlora, or quantization: none")
    if plan.weights_dtype == "fp16" and plan.autocast_dtype == "bf16" and not plan.uses_adapter:
        what = "bf16 contradicts weights_dtype fp16: two 16-bit formats in one step"
        yield Problem("autocast_dtype", what, "none, fp16", "use one 16-bit format for both")
    if plan.parallel.data_parallel_size > 1 and plan.parallel.strategy == "none":
        what = f"{plan.parallel.data_parallel_size} contradicts strategy none"
        fix = "set parallel.strategy, or data_parallel_size: 1"
        yield Problem("parallel.data_parallel_size", what, "1", fix)
    if plan.parallel.offload != "none" and plan.parallel.strategy in ("none", "ddp"):
        what = f"{plan.parallel.offload} contradicts strategy {plan.parallel.strategy}"
        fix = "use zero2, zero3 or fsdp, or offload: none"
        yield Problem("parallel.offload", what, "none", fix)
    if plan.attention == "flash_attention_2" and not _has_16_bit_attention(plan):
        what = "flash_attention_2 contradicts fp32 without autocast: its kernels take 16 bits"
        fix = "set autocast_dtype: bf16, or attention: sdpa"
        yield Problem("attention", what, "eager, sdpa", fix)
    if plan.attention != "sdpa" and plan.attention_backend != "auto":
        what = f"{plan.attention_backend} contradicts attention {plan.attention}"
        yield Problem("attention_backend", what, "auto", "set attention: sdpa, or drop the key")
    yield from _flash_contradictions(plan)
    if plan.method == "prefix_tuning" and plan.gradient_checkpointing:
        what = (
            "true contradicts method prefix_tuning: checkpointing drops the keys it puts in front"
        )
        fix = "set gradient_checkpointing: false, or use prompt_tuning"
        yield Problem("gradient_checkpointing", what, "false", fix)
    if plan.adapter.use_dora and plan.method not in ("lora", "qlora"):
        what = f"true contradicts method {plan.method}"
        yield Problem("adapter.use_dora", what, "false", "use method: lora or qlora")
    if plan.adapter.use_dora and plan.quantization == "int8":
        what = "true contradicts quantization int8: peft's DoRA reads weights that are not there"
        yield Problem("adapter.use_dora", what, "false", "set use_dora: false, or use nf4")
    if plan.adapter.modules_to_save and plan.method not in ("lora", "qlora", "ia3"):
        what = f"{', '.join(plan.adapter.modules_to_save)} contradicts method {plan.method}"
        yield Problem("adapter.modules_to_save", what, "[]", "use method: lora, qlora or ia3")


def _flash_contradictions(plan: FineTunePlan) -> Iterable[Problem]:
    gpu = plan.gpu_spec
    if (gpu.compute_capability or FLASH_CAPABILITY) < FLASH_CAPABILITY:
        what = (
            f"contradicts gpu {gpu.name}: there is no flash attention before compute capability "
            f"{FLASH_CAPABILITY}, and it has {gpu.compute_capability}"
        )
        if plan.attention == "flash_attention_2":
            fix = "set attention: sdpa, or name a newer GPU"
            yield Problem("attention", f"flash_attention_2 {what}", "eager, sdpa", fix)
        if plan.attention_backend == "flash":
            fix = "set attention_backend: auto, or name a newer GPU"
            yield Problem("attention_backend", f"flash {what}", "auto, efficient, math", fix)
    if plan.attention_backend == "flash" and plan.padded:
        what = "flash contradicts padded: true: no flash kernel takes an attention mask"
        fix = "set attention_backend: auto, or padded: false"
        yield Problem("attention_backend", what, "auto, efficient, math", fix)


def _has_16_bit_attention(plan: FineTunePlan) -> bool:
    return plan.autocast_dtype != "none" or plan.weights_dtype != "fp32"
