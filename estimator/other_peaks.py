"""The peaks beside the training step: loading, evaluation, generation, saving, host and disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from estimator.estimate import Component, MemoryEstimate
from estimator.flops import ModelShape, NotCounted, kernel, read_shape
from estimator.models import ResolvedModel, resolve_model
from estimator.plan import BYTES_PER_VALUE, FineTunePlan, FloatType
from estimator.records import Record
from estimator.states import read_states

GpuUse = Literal["training", "load", "evaluation", "generation", "saving"]
GPU_USES: tuple[GpuUse, ...] = get_args(GpuUse)

NEW_TOKENS = 256
"""Tokens that generation adds to its prompt, or half of the sequence where that is shorter."""

CHECKPOINTS_KEPT = 2
"""The newest and the best (save_total_limit: 2); one more is there while the next is written."""

SHARD_BYTES = 50 * 10**9
"""The largest file that transformers 5.23 writes: ``save_pretrained``'s max_shard_size."""

_RESIDENT: tuple[Component, ...] = (
    "weights",
    "quantization_state",
    "adapters",
    "optimizer_states",
    "workspace",
)
"""What stays on the GPU between two training steps."""

_BYTES_BY_NAME = {"float32": 4, "bfloat16": 2, "float16": 2}


class OtherPeaks(Record):
    """What a fine-tune needs beside the training step's memory.

    ``gpu_bytes`` holds the allocated peak of each thing that is done on the GPU, the training
    step among them; ``largest`` names the largest that is known. ``host_bytes`` is main memory,
    ``disk_bytes`` files. A value that is not known is None, and ``unknown`` says why.
    """

    gpu_bytes: dict[GpuUse, int | None]
    largest: GpuUse
    kv_cache_bytes: int | None
    host_bytes: dict[str, int | None]
    disk_bytes: dict[str, int | None]
    unknown: dict[str, str]
    assumptions: tuple[str, ...]


def read_other_peaks(estimate: MemoryEstimate) -> OtherPeaks:
    """Return the peaks beside the training step that an estimate is for.

    Known error: evaluation and generation count the widest moment of one layer and of the loss;
    rotary tables, masks and the batch itself, a few MiB, are left out.

    Raises:
        InputError: The plan's model cannot be found any more.
    """
    plan = estimate.plan
    model = resolve_model(plan.model)
    shape, reason = None, ""
    try:
        shape = read_shape(plan, model)
    except NotCounted as no:
        reason = no.reason
    if shape is not None and shape.architecture is None:
        shape, reason = None, f"Layers of {model.config['model_type']} models are not described."
    sizes = [estimate.components_bytes.get(kind) for kind in _RESIDENT]
    resident = sum(size for size in sizes if size is not None) if None not in sizes else None
    if resident is None:
        shape, reason = None, "What stays on the GPU between steps was not measured apart."
    cache = kv_cache_bytes(plan, shape, plan.seq_len) if shape else None
    gpu: dict[GpuUse, int | None] = {
        "training": estimate.peak_allocated_bytes,
        "load": estimate.phases_bytes.get("load"),
        "evaluation": resident + evaluation_bytes(plan, shape) if shape and resident else None,
        "generation": resident + generation_bytes(plan, shape) if shape and resident else None,
        "saving": resident,
    }
    unknown = {f"gpu {use}": reason for use, size in gpu.items() if size is None and reason}
    disk = _disk(estimate, model)
    if disk["download"] is None:
        unknown["disk download"] = "The config.json does not say what the weights are stored in."
    return OtherPeaks(
        gpu_bytes=gpu,
        largest=max(gpu, key=lambda use: gpu[use] or 0),
        kv_cache_bytes=cache,
        host_bytes=_host(estimate),
        disk_bytes=disk,
        unknown=unknown,
        assumptions=tuple(_assumptions(plan)),
    )


def kv_cache_bytes(plan: FineTunePlan, shape: ModelShape, num_tokens: int) -> int:
    """Return the keys and values that generation keeps for ``num_tokens`` tokens a sequence.

    Source: ``DynamicCache`` of transformers 5.23: two tensors a layer of batch x key heads x
    tokens x head size. A layer with a sliding window keeps no more than the window.
    """
    itemsize = BYTES_PER_VALUE[_key_dtype(plan)]
    per_token = 2 * plan.micro_batch_size * shape.num_key_heads * shape.head_dim * itemsize
    return per_token * sum(min(num_tokens, window or num_tokens) for window in shape.windows)


def _key_dtype(plan: FineTunePlan) -> FloatType:
    if plan.autocast_dtype != "none":
        return plan.autocast_dtype
    return "fp32" if plan.prepares_kbit else plan.weights_dtype


def evaluation_bytes(plan: FineTunePlan, shape: ModelShape) -> int:
    """Return what an evaluation batch takes beside what is resident: no gradients, no graph.

    The fuller of two moments: one layer, and the loss, where the logits exist as the head makes
    them, in 32 bits, and as log-softmax.
    """
    dtype_bytes = BYTES_PER_VALUE[_key_dtype(plan)]
    tokens = plan.tokens_per_micro_batch
    copies = 4 if dtype_bytes == 4 else 2 + 4  # 32-bit logits are not copied to 32 bits
    logits = tokens * shape.vocab_size * (copies + 4)
    last_hidden = tokens * shape.hidden_size * _stream_bytes(plan)
    return _autocast_copies(plan, shape) + max(
        logits + last_hidden, _layer_bytes(plan, shape, tokens, plan.seq_len)
    )


def generation_bytes(plan: FineTunePlan, shape: ModelShape) -> int:
    """Return what generation takes beside what is resident.

    The fuller of two moments: the prompt's pass, with the cache of its tokens and one layer's
    activations, and the last new token, where one layer's cache is written anew.
    """
    new = min(NEW_TOKENS, plan.seq_len // 2)
    prompt = plan.seq_len - new
    whole = kv_cache_bytes(plan, shape, plan.seq_len)
    during_prompt = kv_cache_bytes(plan, shape, prompt) + _layer_bytes(
        plan, shape, plan.micro_batch_size * prompt, prompt
    )
    rewritten = whole // shape.num_layers
    return _autocast_copies(plan, shape) + max(during_prompt, whole + rewritten)


def _stream_bytes(plan: FineTunePlan) -> int:
    return 4 if plan.prepares_kbit else BYTES_PER_VALUE[plan.weights_dtype]


def _layer_bytes(plan: FineTunePlan, shape: ModelShape, tokens: int, length: int) -> int:
    """Return the widest moment of one layer's forward pass without a graph.

    The embeddings, the layer's input, the residual and its norm stay; beside them either three
    tensors of the MLP's width, or queries, keys and values. Where attention is not fused it has
    two copies of its scores, the mask, and keys and values for every query head.
    """
    itemsize = BYTES_PER_VALUE[_key_dtype(plan)]
    stream = 4 * tokens * shape.hidden_size * _stream_bytes(plan)
    mlp = 3 * tokens * shape.inner_size * itemsize
    queries, keys = shape.num_heads * shape.head_dim, shape.num_key_heads * shape.head_dim
    attention = tokens * (queries + 2 * keys) * itemsize
    if kernel(plan, shape) in ("eager", "math"):
        attention += tokens * 2 * queries * itemsize
        attention += tokens * length * (shape.num_heads * (itemsize + 4) + itemsize)
    return stream + max(mlp, attention)


def _autocast_copies(plan: FineTunePlan, shape: ModelShape) -> int:
    """Autocast keeps a 16-bit copy of every trained 32-bit weight until the pass is over."""
    if plan.method != "full" or plan.weights_dtype != "fp32" or plan.autocast_dtype == "none":
        return 0
    weights = sum(linear.in_features * linear.out_features for linear in shape.linears)
    return 2 * (shape.num_layers * weights + shape.vocab_size * shape.hidden_size)


def _host(estimate: MemoryEstimate) -> dict[str, int | None]:
    """Main memory: what loading, a paged optimizer and saving take there."""
    plan = estimate.plan
    total = estimate.parameters.total * BYTES_PER_VALUE[plan.weights_dtype]
    straight = plan.device_map_load or plan.is_quantized
    return {
        "loading": 0 if straight else total,
        "optimizer_states": _paged_states(estimate),
        "saving": min(_saved_weights(estimate), SHARD_BYTES),
    }


def _paged_states(estimate: MemoryEstimate) -> int | None:
    """States of a paged optimizer that the driver may move to main memory; 0 without one."""
    plan = estimate.plan
    if not plan.optimizer.startswith("paged_"):
        return 0
    states = _optimizer_states(plan)
    on_gpu = estimate.components_bytes.get("optimizer_states")
    return None if states is None or on_gpu is None else max(0, states - on_gpu)


def _optimizer_states(plan: FineTunePlan) -> int | None:
    """Every optimizer state of the plan, wherever it lies; None where it is not described."""
    if plan.method not in ("full", "last_layers", "lora", "qlora"):
        return None
    try:
        shape = read_shape(plan, resolve_model(plan.model))
    except NotCounted:
        return None
    if shape.architecture is None:
        return None
    resident = plan.model_copy(update={"optimizer": plan.optimizer.removeprefix("paged_")})
    return read_states(resident, shape.architecture).optimizer_states


def _saved_weights(estimate: MemoryEstimate) -> int:
    """What ``save_pretrained`` writes: the adapter alone, or every weight."""
    plan = estimate.plan
    if plan.uses_adapter:
        return estimate.parameters.trainable * BYTES_PER_VALUE[plan.adapter.dtype]
    return estimate.parameters.total * BYTES_PER_VALUE[plan.weights_dtype]


def _disk(estimate: MemoryEstimate, model: ResolvedModel) -> dict[str, int | None]:
    """Files: the checkpoint that is downloaded, and those that training writes."""
    name = model.config.get("torch_dtype") or model.config.get("dtype")
    itemsize = _BYTES_BY_NAME.get(str(name))
    if model.config.get("quantization_config"):
        itemsize = None
    weights = _saved_weights(estimate)
    states = _optimizer_states(estimate.plan)
    if states is None:
        states = estimate.components_bytes.get("optimizer_states")
    one = None if states is None else weights + states
    return {
        "download": itemsize * estimate.parameters.total if itemsize else None,
        "checkpoint": one,
        "checkpoints": None if one is None else (CHECKPOINTS_KEPT + 1) * one,
        "result": weights,
    }


def _assumptions(plan: FineTunePlan) -> Iterator[str]:
    new = min(NEW_TOKENS, plan.seq_len // 2)
    yield (
        f"Evaluation: {plan.micro_batch_size} x {plan.seq_len} tokens, as in training, without "
        "gradients; logits are let go after the loss, as Hugging Face Trainer does unless "
        "compute_metrics asks for them."
    )
    if plan.loss != "default":
        yield f"Evaluation is counted with the default loss; the {plan.loss} one may take less."
    yield (
        f"Generation: {plan.micro_batch_size} at a time, {plan.seq_len - new} tokens of prompt "
        f"and {new} new ones, with the optimizer's states still on the GPU."
    )
    yield (
        "Saving takes no more GPU memory: each file is copied to main memory as a whole, at most "
        "50 GB at a time, and written from there."
    )
    if plan.device_map_load or plan.is_quantized:
        yield "Loading maps the files and sends tensor after tensor to the GPU: no copy stays."
    yield "Main memory comes on top of what Python, PyTorch and the data take, not counted here."
    yield (
        f"Disk: {CHECKPOINTS_KEPT} checkpoints are kept and one more exists while it is written; "
        "each holds the trained weights and the optimizer's states."
    )
    if plan.parallel.strategy != "none":
        yield "Counted as on one GPU: sharding is left out."
