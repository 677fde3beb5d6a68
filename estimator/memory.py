"""The formula reading: a step's memory from the architecture's shapes alone, without torch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

from estimator.architecture import Architecture, NotModelled
from estimator.byte_account import Moment
from estimator.decoder_step import DecoderStep, StepMoments
from estimator.estimate import COMPONENTS, Device, MemoryEstimate, ParameterCounts, Phase
from estimator.gpu_facts import cublas_workspace_bytes, cudnn_assumption, plan_attention
from estimator.gpus import Gpu, common_gpus
from estimator.models import beyond_trained_length, resolve_model
from estimator.plan import FLASH_CAPABILITY, FineTunePlan
from estimator.states import States, read_states

DECODERS = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""The model types whose layers :mod:`estimator.decoder_step` describes."""


class NoFormula(Exception):
    """The formula does not hold for a plan; ``reason`` is one plain sentence that says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def read_formula(
    plan: FineTunePlan, *, device: Device = "cuda", gpus: Sequence[Gpu] = ()
) -> MemoryEstimate:
    """Return the memory of the plan's step, worked out operation by operation.

    The step's operations are written down for two layers, every further layer adds what the
    second did, and the states are added to the byte. Peak allocated only: what the allocator
    holds beyond that depends on the order of events, which the dry run replays.

    Known error: the bytes in live tensors come out within 0.05 % of the dry run's trace (decoders
    of :data:`DECODERS`, every method, precision and optimizer described). The allocator adds the
    rests of blocks that it does not split: 0 to 0.4 % on 7B models with checkpointing, up to 3.5 %
    (seen on a 1.1B QLoRA step without checkpointing). In fp32 or pure 16 bits the gradients of
    tied embeddings are added out of place, under autocast in place, as PyTorch does.

    Args:
        plan: What is trained.
        device: On a CPU there are no cuBLAS workspaces, and there is no GPU to fit.
        gpus: What to judge the step against, in place of the plan's GPU and the common ones. Each
            is judged by what the step takes there, with that GPU's attention kernel and
            workspace; where that is not described, the GPU is left out and an assumption says so.

    Raises:
        NoFormula: The plan asks for something that is not described here; the dry run reads it.
        InputError: The model cannot be found, or its configuration is wrong.
    """
    started = time.perf_counter()
    model = resolve_model(plan.model)
    try:
        architecture = Architecture.from_config(model.config)
    except NotModelled as error:
        reason = f"The formula does not describe {error.model_type} models: it {error.reason}."
        raise NoFormula(reason) from error
    reason = next(_refusals(plan, model.config, architecture), None)
    if reason:
        raise NoFormula(reason)
    states = read_states(plan, architecture)
    step_with = cache(partial(_step, plan, architecture))

    def read_on(gpu: Gpu) -> dict[Phase, Moment]:
        kernel = _attention(plan, gpu, architecture) or "none"
        # forward and backward run on threads of their own, with a workspace each
        workspaces_bytes = 2 * cublas_workspace_bytes(gpu) if device == "cuda" else 0
        return _phases(plan, states, step_with(kernel), workspaces_bytes)

    moments = read_on(plan.gpu_spec)
    peak_phase = max(moments, key=lambda phase: moments[phase].total_bytes)
    peak = moments[peak_phase]
    estimate = MemoryEstimate(
        basis="formula",
        plan=plan,
        parameters=ParameterCounts(
            total=architecture.num_parameters, trainable=states.num_trainable
        ),
        components_bytes={component: peak.sizes.get(component, 0) for component in COMPONENTS},
        phases_bytes={phase: moment.total_bytes for phase, moment in moments.items()},
        peak_phase=peak_phase,
        peak_allocated_bytes=peak.total_bytes,
        assumptions=tuple(_assumptions(plan, model.config, architecture)),
        device=device,
        seconds=time.perf_counter() - started,
    )
    if device == "cpu":
        return estimate
    by_name = {gpu.name: gpu for gpu in gpus or (plan.gpu_spec, *common_gpus())}
    fits, left_out = [], []
    for gpu in by_name.values():
        if _kernel_refusal(plan, gpu, architecture):
            left_out.append(gpu)
            continue
        there = max(moment.total_bytes for moment in read_on(gpu).values())
        needs = {"peak_allocated_bytes": there}
        fits.append(estimate.model_copy(update=needs).fit(gpu))
    more = tuple(_about_gpus(plan, architecture, list(by_name.values()), left_out))
    found: dict[str, Any] = {"gpus": tuple(fits), "assumptions": estimate.assumptions + more}
    return estimate.model_copy(update=found | {"seconds": time.perf_counter() - started})


def _about_gpus(
    plan: FineTunePlan, architecture: Architecture, gpus: list[Gpu], left_out: list[Gpu]
) -> Iterator[str]:
    if left_out:
        names = ", ".join(gpu.name for gpu in left_out)
        yield f"Not judged on {names}: {_kernel_refusal(plan, left_out[0], architecture)}"
    others = [gpu for gpu in gpus if gpu not in left_out and gpu.name != plan.gpu_spec.name]
    without = [gpu.name for gpu in others if not gpu.has_bf16]
    if without and "bf16" in (plan.weights_dtype, plan.autocast_dtype):
        yield f"{', '.join(without)} has no bf16 arithmetic: judged with fp16 in its place."


def _step(plan: FineTunePlan, architecture: Architecture, attention: str) -> StepMoments:
    accumulates = plan.gradient_accumulation_steps > 1
    step = DecoderStep(plan, architecture, attention=attention, accumulates=accumulates)
    return step.moments()


def _phases(
    plan: FineTunePlan, states: States, step: StepMoments, workspaces_bytes: int
) -> dict[Phase, Moment]:
    """Return the fullest moment of each phase of the second step, when all states exist."""
    loaded = Moment(
        {
            "weights": states.weights,
            "quantization_state": states.quantization_state,
            "adapters": states.adapters,
        }
    )
    always = loaded.plus(
        {
            "optimizer_states": states.optimizer_states,
            "workspace": workspaces_bytes,
        }
    )
    with_gradients = always.plus({"gradients": states.gradients})
    during = with_gradients if plan.gradient_accumulation_steps > 1 else always
    return {
        "load": loaded.plus({"temporaries": states.load_temporaries}),
        "forward": during.plus(step.forward.sizes),
        "backward": during.plus(step.backward.sizes),
        "optimizer": with_gradients.plus({"temporaries": states.optimizer_temporaries}),
    }


def _attention(plan: FineTunePlan, gpu: Gpu, architecture: Architecture) -> str | None:
    """Return the attention kernel that the step takes on a GPU, None where there is no such."""
    grouped = _is_grouped(architecture)
    return plan_attention(plan, gpu, head_dim=architecture.head_dim, is_grouped=grouped)


def _kernel_refusal(plan: FineTunePlan, gpu: Gpu, architecture: Architecture) -> str | None:
    """Return why the formula does not hold on a GPU, None where it does."""
    kernel = _attention(plan, gpu, architecture)
    if kernel is None:
        return f"there is no flash attention before compute capability {FLASH_CAPABILITY}."
    if kernel == "math":
        return (
            "attention falls to PyTorch's math kernel there, which the formula does not describe."
        )
    if kernel == "efficient" and _is_grouped(architecture):
        return "the formula does not describe memory-efficient attention with expanded key heads."
    return None


def _is_grouped(architecture: Architecture) -> bool:
    return architecture.num_key_value_heads < architecture.num_attention_heads


def _refusals(
    plan: FineTunePlan, config: dict[str, Any], architecture: Architecture
) -> Iterator[str]:
    """Yield why the formula does not hold, most telling first; nothing where it does."""
    yield from _model_refusals(plan, config, architecture)
    yield from _method_refusals(plan, architecture)
    yield from _precision_refusals(plan)
    if plan.parallel.strategy != "none":
        yield f"The formula is for one GPU; {plan.parallel.strategy} spreads the step over several."
    if plan.loss != "default":
        yield f"The formula describes the default loss, not the {plan.loss} one."
    if plan.padded:
        yield "The formula describes batches without an attention mask."
    if plan.attention == "eager":
        yield "The formula describes flash and memory-efficient attention, not eager attention."
    reason = _kernel_refusal(plan, plan.gpu_spec, architecture)
    if reason:
        yield f"On {plan.gpu_spec.name} with these dtypes {reason}"


def _model_refusals(
    plan: FineTunePlan, config: dict[str, Any], architecture: Architecture
) -> Iterator[str]:
    model_type = architecture.model_type
    if model_type not in DECODERS:
        yield f"The formula describes decoders like {', '.join(DECODERS)}, not {model_type}."
    if config.get("quantization_config"):
        yield "The checkpoint is already quantised, which the formula does not describe."
    window = config.get("sliding_window")
    slides = model_type == "mistral" or config.get("use_sliding_window")
    if slides and window and plan.seq_len > window:
        yield f"Beyond its sliding window of {window} tokens the model builds an attention mask."
    if architecture.head_dim % 8 or architecture.head_dim > 256:
        yield f"The attention kernels pad or refuse heads of {architecture.head_dim}."


def _method_refusals(plan: FineTunePlan, architecture: Architecture) -> Iterator[str]:
    if plan.method not in ("full", "last_layers", "lora", "qlora"):
        yield f"The formula describes full, last_layers, lora and qlora, not {plan.method}."
    if plan.quantization == "int8":
        yield "The formula describes 4-bit weights, not LLM.int8()."
    if plan.adapter.use_dora:
        yield "The formula describes plain LoRA, not DoRA."
    targets = plan.adapter.target_modules
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


def _assumptions(
    plan: FineTunePlan, config: dict[str, Any], architecture: Architecture
) -> Iterator[str]:
    yield (
        "Peak allocated: the bytes in live tensors, as torch.cuda.max_memory_allocated counts "
        "them. nvidia-smi shows more: the allocator's cache and the CUDA context."
    )
    attention = _attention(plan, plan.gpu_spec, architecture)
    yield (
        f"Worked out operation by operation for {architecture.model_type}, with {attention} "
        f"attention on {plan.gpu_spec.name}."
    )
    cudnn = cudnn_assumption(attention, plan.gpu_spec)
    if cudnn and plan.attention == "sdpa" and plan.attention_backend == "auto":
        yield cudnn
    yield f"Every example is {plan.seq_len} tokens long; shorter ones need less."
    if beyond := beyond_trained_length(plan, config):
        yield beyond
    if plan.gradient_accumulation_steps > 1:
        yield "Gradients are accumulated: they stay alive through forward and backward."
    if plan.optimizer.startswith("paged_"):
        yield "Paged optimizer states are not counted: they lie in memory the driver can move out."
    yield (
        "Whether it fits is judged with the kernels of each GPU, a tenth more for the cache, and "
        "0.6 GiB of context."
    )
