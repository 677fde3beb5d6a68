"""Where the formula does not hold, and why: one plain sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from estimator.architecture import Architecture, Module
from estimator.contradictions import FLASH_CAPABILITY
from estimator.gpu_facts import has_grouped_mm, plan_attention
from estimator.gpus import Gpu
from estimator.layer_forms import LayerForm, described_types
from estimator.plan import FineTunePlan

_SLIDING = ("mistral", "gemma2", "gemma3_text", "phi3", "starcoder2")
"""Families that look at a window wherever their configuration has one."""


def not_described(config: dict[str, Any]) -> str:
    """Return why a model without a layer form is refused."""
    model_type = config["model_type"]
    if model_type in described_types():
        return f"The formula does not describe this {model_type} model's activation function."
    return f"The formula describes decoders like {', '.join(described_types())}, not {model_type}."


def kernel_on(
    plan: FineTunePlan, gpu: Gpu, architecture: Architecture, form: LayerForm
) -> str | None:
    """Return the attention kernel that the step takes on a GPU, None where there is no such."""
    if form.eager_only:
        return "eager"
    grouped = architecture.num_key_value_heads < architecture.num_attention_heads
    return plan_attention(plan, gpu, head_dim=architecture.head_dim, is_grouped=grouped)


def kernel_refusal(kernel: str | None) -> str | None:
    """Return why the formula does not hold with an attention kernel, None where it does."""
    if kernel is None:
        return f"there is no flash attention before compute capability {FLASH_CAPABILITY}."
    return None


def refusals(
    plan: FineTunePlan,
    config: dict[str, Any],
    architecture: Architecture,
    form: LayerForm,
) -> Iterator[str]:
    """Yield why the formula does not hold, most telling first; nothing where it does."""
    yield from _model_refusals(plan, config, architecture)
    yield from _method_refusals(plan, architecture, form)
    yield from _precision_refusals(plan)
    if plan.parallel.strategy != "none":
        yield f"The formula is for one GPU; {plan.parallel.strategy} spreads the step over several."
    if plan.loss != "default":
        yield f"The formula describes the default loss, not the {plan.loss} one."
    gpu = plan.gpu_spec
    kernel = kernel_on(plan, gpu, architecture, form)
    reason = kernel_refusal(kernel)
    if reason:
        yield f"On {gpu.name} with these dtypes {reason}"
    if form.capped_scores and kernel != "eager":
        yield "PyTorch's attention kernels do not take a cap on the scores; eager attention does."
    if form.mlp == "experts" and not has_grouped_mm(gpu):
        yield f"On {gpu.name} transformers loops over the experts, which depends on the data."
    if config.get("output_router_logits") or config.get("clip_qkv"):
        yield "The formula describes neither an auxiliary router loss nor clipped queries."
    if form.attention_dropout and kernel in ("eager", "math"):
        yield f"The formula describes no dropout on the weights of {kernel} attention."


def _model_refusals(
    plan: FineTunePlan, config: dict[str, Any], architecture: Architecture
) -> Iterator[str]:
    if config.get("quantization_config"):
        yield "The checkpoint is already quantised, which the formula does not describe."
    window = config.get("sliding_window")
    if _slides(config) and window and plan.seq_len > window:
        yield f"Beyond its sliding window of {window} tokens the model builds an attention mask."
    if architecture.head_dim % 8 or architecture.head_dim > 256:
        yield f"The attention kernels pad or refuse heads of {architecture.head_dim}."


def _slides(config: dict[str, Any]) -> bool:
    return config["model_type"] in _SLIDING or bool(config.get("use_sliding_window"))


def _with_biases(architecture: Architecture) -> Iterator[Module]:
    for module in (*architecture.layer, *architecture.rest):
        if any(name == ".bias" for name, _ in module.tensors):
            yield module


def _method_refusals(
    plan: FineTunePlan, architecture: Architecture, form: LayerForm
) -> Iterator[str]:
    targets = plan.adapter.target_modules
    if form.mlp == "experts" and plan.method in ("lora", "qlora") and targets == "all-linear":
        yield "With all-linear peft adapts the experts' weights too, which is not described."
    if plan.quantization == "int8" and plan.keep_outputs:
        yield "LLM.int8() keeps its inputs while outputs are kept, which is not described."
    if plan.method == "prefix_tuning":
        yield "The formula does not describe prefix_tuning."
    if plan.method == "ia3" and (not form.ia3 or plan.adapter.target_modules != "all-linear"):
        yield "The formula describes IA³ on the modules that peft lists for a family."
    if plan.method == "bitfit" and not any(_with_biases(architecture)):
        yield "The model has no biases for bitfit to train."
    if plan.adapter.modules_to_save:
        yield "The formula describes an adapter alone, not modules trained whole beside it."
    if plan.gradient_checkpointing and plan.checkpointing_reentrant:
        yield "The formula describes non-reentrant checkpointing."
    if plan.adapter.use_dora:
        yield "The formula describes plain LoRA, not DoRA."
    if plan.adapter.modules_to_save:
        yield "The formula describes adapters alone, not modules trained whole beside them."
    if plan.gradient_checkpointing and plan.checkpointing_reentrant:
        yield "The formula describes checkpointing that is not reentrant."
    known = {linear.name.rpartition(".")[2] for linear in architecture.linears}
    if plan.uses_adapter and targets != "all-linear" and not set(targets) <= known:
        yield f"The formula describes adapters on {', '.join(sorted(known))} alone."
    layers = architecture.num_hidden_layers
    if plan.method == "last_layers" and plan.num_trained_layers > layers:
        yield f"The model has {layers} layers, fewer than the {plan.num_trained_layers} to train."


def _precision_refusals(plan: FineTunePlan) -> Iterator[str]:
    dtypes = {plan.weights_dtype, plan.autocast_dtype}
    dtypes |= {plan.adapter.dtype} if plan.uses_adapter else set()
    if {"bf16", "fp16"} <= dtypes:
        yield "Two 16-bit formats in one step make copies that the formula does not describe."
