"""How long a training step takes: a roofline of its arithmetic and its bytes on one GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from estimator.flops import (
    ModelShape,
    NotCounted,
    Part,
    Work,
    count_work,
    kernel,
    num_backward_layers,
    read_shape,
)
from estimator.gpus import Gpu
from estimator.models import resolve_model
from estimator.plan import FineTunePlan, FloatType
from estimator.records import Record
from estimator.step_bytes import bytes_moved_by_optimizer, bytes_moved_by_part
from estimator.training_steps import Examples, count_steps

FORMULA = (
    "step = micro-batches x max(sum of FLOPs / (peak rate x e) + bytes moved / (bandwidth x b), "
    "operations x h) + optimizer's bytes / (bandwidth x b)"
)

MATMUL_SOURCE = (
    "e is the share of the peak rate that matrix products reach, 30 to 75 %: MosaicML "
    "llm-foundry's training benchmarks report 34 to 59 % on H100 and 42 to 80 % on A100, hardware "
    "FLOPs utilisation of models of 125M to 70B parameters."
)
BANDWIDTH_SOURCE = (
    "b is the share of the bandwidth that elementwise kernels reach: assumed, 50 % where they are "
    "short to 90 % for plain copies."
)
HOST_SOURCE = (
    "h is what Python and the launch of one operation cost the CPU, 6 to 25 microseconds: 5 to 7 "
    "at least (pytorch/pytorch#41383), 13 to 15 in Qwen's README (LoRA on one A100 at 256 tokens)."
)
COVERAGE = (
    "Of 44 steps that others measured on T4, RTX 4080 and A100 (bench/published), 43 lie in the "
    "range."
)


class Span(Record):
    """A number with its range: the smallest and the largest that are to be expected."""

    low: float
    likely: float
    high: float


class Throughput(Record):
    """How long one optimizer step takes on the plan's GPU, and the whole run with it.

    ``flops_per_step`` counts matrix products by part and pass, over every micro-batch of a step on
    one GPU. Times are None where ``unknown`` says why; ``hours`` and ``num_steps`` also where the
    plan does not say how many examples there are.
    """

    gpu: str
    flops_per_step: dict[str, int]
    total_flops_per_step: int | None
    tokens_per_step: int
    step_seconds: Span | None = None
    tokens_per_second: Span | None = None
    num_steps: int | None = None
    hours: Span | None = None
    unknown: str = ""
    basis: str = "formula"
    formula: str = FORMULA
    sources: tuple[str, ...] = (MATMUL_SOURCE, BANDWIDTH_SOURCE, HOST_SOURCE, COVERAGE)
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Efficiency:
    matmul: float
    bandwidth: float
    host_seconds: float


_EFFICIENCIES = (
    _Efficiency(matmul=0.75, bandwidth=0.90, host_seconds=6e-6),
    _Efficiency(matmul=0.50, bandwidth=0.75, host_seconds=12e-6),
    _Efficiency(matmul=0.30, bandwidth=0.50, host_seconds=25e-6),
)
"""Best, likely and worst; the sources are named above."""


def read_throughput(plan: FineTunePlan) -> Throughput:
    """Return how long a step of the plan takes on its GPU, from shapes and the GPU's rates alone.

    Source: the roofline model (Williams et al. 2009), one matrix product after another: nothing
    overlaps but the CPU's launches with the GPU's work. Known error: see docs/memory.md; it is a
    range, and a probe on the GPU itself replaces it.

    Raises:
        InputError: The model cannot be found, or its configuration is wrong.
    """
    tokens = plan.global_batch_size * plan.seq_len
    try:
        shape = read_shape(plan, resolve_model(plan.model))
    except NotCounted as no:
        return _unknown(plan, no.reason)
    work = count_work(plan, shape)
    flops: dict[str, int] = {
        f"{one.part}_{one.pass_}": round(one.flops * plan.gradient_accumulation_steps)
        for one in work
    }
    found = Throughput(
        gpu=plan.gpu_spec.name,
        flops_per_step=flops,
        total_flops_per_step=sum(flops.values()),
        tokens_per_step=tokens,
        num_steps=_num_steps(plan),
        assumptions=tuple(_assumptions(plan, shape)),
    )
    gpu = plan.gpu_spec
    missing = next(_missing_rates(plan, shape, gpu), None)
    if missing:
        return found.model_copy(update={"unknown": missing})
    low, likely, high = (_step_seconds(plan, shape, work, with_) for with_ in _EFFICIENCIES)
    hours = [_hours(plan, seconds) for seconds in (low, likely, high)]
    return found.model_copy(
        update={
            "step_seconds": Span(low=low, likely=likely, high=high),
            "tokens_per_second": Span(low=tokens / high, likely=tokens / likely, high=tokens / low),
            "hours": _span(hours),
        }
    )


def _unknown(plan: FineTunePlan, reason: str) -> Throughput:
    return Throughput(
        gpu=plan.gpu_spec.name,
        flops_per_step={},
        total_flops_per_step=None,
        tokens_per_step=plan.global_batch_size * plan.seq_len,
        num_steps=_num_steps(plan),
        unknown=reason,
    )


def _span(values: list[float | None]) -> Span | None:
    low, likely, high = values
    if low is None or likely is None or high is None:
        return None
    return Span(low=low, likely=likely, high=high)


def _step_seconds(
    plan: FineTunePlan, shape: ModelShape, work: list[Work], with_: _Efficiency
) -> float:
    gpu = plan.gpu_spec
    bandwidth = (gpu.bandwidth_gb_per_second or 0) * 1e9 * with_.bandwidth
    arithmetic = sum(
        one.flops / (_rate(gpu, _dtype(plan, one.part)) * with_.matmul) for one in work
    )
    on_gpu = arithmetic + sum(bytes_moved_by_part(plan, shape).values()) / bandwidth
    on_host = num_operations(plan, shape) * with_.host_seconds
    micro_batch = max(on_gpu, on_host)
    optimizer = bytes_moved_by_optimizer(plan, shape) / bandwidth
    return plan.gradient_accumulation_steps * micro_batch + optimizer


def _dtype(plan: FineTunePlan, part: Part) -> FloatType:
    """Return what a part's matrix products are computed in."""
    if plan.autocast_dtype != "none":
        return plan.autocast_dtype
    if part == "adapters":
        return plan.adapter.dtype
    if plan.prepares_kbit and part in ("attention", "head"):
        return "fp32"  # k-bit preparation makes the residual stream and the head 32 bits wide
    return plan.weights_dtype


def _rate(gpu: Gpu, dtype: FloatType) -> float:
    """Return the GPU's peak in FLOPs a second; bf16 that it does not have runs as fp32."""
    rates = {
        "fp32": gpu.fp32_tflops,
        "fp16": gpu.fp16_dense_tflops,
        "bf16": gpu.bf16_dense_tflops if gpu.has_bf16 else gpu.fp32_tflops,
    }
    return (rates[dtype] or 0) * 1e12


def _missing_rates(plan: FineTunePlan, shape: ModelShape, gpu: Gpu) -> Iterator[str]:
    if not gpu.bandwidth_gb_per_second:
        yield f"The memory bandwidth of {gpu.name} is not known."
    for one in count_work(plan, shape):
        dtype = _dtype(plan, one.part)
        if not _rate(gpu, dtype):
            yield f"The {dtype} rate of {gpu.name} is not known."


def num_operations(plan: FineTunePlan, shape: ModelShape) -> int:
    """Return about how many operations one micro-batch launches.

    Counted from transformers 5.23's Llama: two norms of six operations, rotary embedding ten,
    attention five, MLP and residuals four; one for each linear, with autocast one cast more, with
    4-bit weights three; six for each adapter. Backward launches two for each of forward's.
    """
    extra = 3 if plan.is_quantized else 0
    extra += 1 if plan.autocast_dtype != "none" else 0
    per_layer = 31 + (len(shape.linears) or 7) * (1 + extra) + 6 * len(shape.adapted)
    backward = num_backward_layers(plan, shape) * (3 if plan.gradient_checkpointing else 2)
    return per_layer * (shape.num_layers + backward)


def _num_steps(plan: FineTunePlan) -> int | None:
    data = plan.data
    if data.num_examples is None:
        return None
    return count_steps(plan, Examples(data.num_examples, data.tokens_per_example))


def _hours(plan: FineTunePlan, step_seconds: float) -> float | None:
    num_steps = _num_steps(plan)
    if num_steps is None:
        return None
    tokens = plan.data.tokens_per_example
    # packed rows are full: shorter examples then mean fewer of them
    filled = min(1.0, tokens / plan.seq_len) if plan.padded and tokens else 1.0
    return num_steps * step_seconds * filled / 3600


def _assumptions(plan: FineTunePlan, shape: ModelShape) -> Iterator[str]:
    gpu = plan.gpu_spec
    yield (
        "Time is a range by formula until a probe has measured it on the GPU: matrix products at "
        "30 to 75 % of the dense peak, everything else at 50 to 90 % of the bandwidth."
    )
    yield f"Attention takes the {kernel(plan, shape)} kernel; no torch.compile, no fused kernels."
    if "bf16" in {_dtype(plan, "linears"), _dtype(plan, "head")} and not gpu.has_bf16:
        yield f"{gpu.name} has no bf16 arithmetic: its bf16 products are taken at its fp32 rate."
    if plan.quantization == "int8":
        yield "LLM.int8()'s products are taken at the 16-bit rate, its weights as if unpacked."
    if plan.parallel.strategy != "none":
        yield "What the GPUs send to each other, and offloading, take no time here."
    if plan.data.num_examples and plan.data.tokens_per_example is None:
        yield f"The whole run's time takes every example as {plan.seq_len} tokens long."
    elif plan.data.num_examples:
        yield "The whole run's time takes examples by their mean length, without padding."
    if plan.data.num_examples and (held_out := plan.schedule.validation_fraction):
        yield f"Of the examples {held_out:.0%} are held out for validation, not trained on."
    yield from shape.notes
