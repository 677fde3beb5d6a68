"""The arithmetic of one micro-batch: matrix products counted from shapes, by part and by pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from estimator.architecture import Architecture, Linear, NotModelled
from estimator.catalogue import find_bundled_model
from estimator.gpu_facts import plan_attention
from estimator.models import ResolvedModel
from estimator.plan import FineTunePlan
from estimator.states import target_linears
from estimator.windows import attention_windows

Part = Literal["linears", "adapters", "attention", "head"]
Pass = Literal["forward", "recompute", "backward"]

_FLASH_BACKWARD = 2.5
"""Flash's backward has five matrix products to forward's two (Dao 2023, FlashAttention-2)."""


class NotCounted(Exception):
    """The arithmetic of a model is not known; ``reason`` is one plain sentence that says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model's arithmetic depends on.

    Attributes:
        architecture: Its modules, None where they are not described.
        layer_weights: Weights that multiply one token in one layer, on average over the layers;
            of a mixture of experts those of the experts that the token takes.
        linears: The linear layers of one layer; none where they are not described.
        adapted: Those that get an adapter.
        hidden_size: Width of the residual stream.
        inner_size: Width of the MLP, of all experts that one token takes together.
        vocab_size: Width of the logits.
        num_heads: Query heads of ``head_dim``.
        num_key_heads: Key heads, as many or fewer.
        windows: Each layer's sliding window, None where it sees every token.
        notes: What was assumed.
    """

    architecture: Architecture | None
    layer_weights: float
    linears: tuple[Linear, ...]
    adapted: tuple[Linear, ...]
    hidden_size: int
    inner_size: int
    vocab_size: int
    num_heads: int
    num_key_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.windows)


@dataclass(frozen=True, slots=True)
class Work:
    """Matrix products of one kind in one pass of one micro-batch, and the scores they pass by."""

    part: Part
    pass_: Pass
    flops: float


def read_shape(plan: FineTunePlan, model: ResolvedModel) -> ModelShape:
    """Return what the arithmetic of a plan's model depends on.

    A model whose layers are not described here is taken by the parameters that one token uses,
    where the catalogue knows them.

    Raises:
        NotCounted: Nothing says how much one token multiplies.
    """
    try:
        architecture = Architecture.from_config(model.config)
    except NotModelled:
        return _shape_by_count(model)
    windows = attention_windows(model.config, architecture.num_hidden_layers)
    if windows is None:
        raise NotCounted("Layers that are not attention are not counted.")
    targets = target_linears(plan, architecture) if plan.method in ("lora", "qlora") else ()
    experts = model.config.get("num_experts_per_tok") if _has_experts(architecture) else None
    inner = model.config.get("moe_intermediate_size") or architecture.intermediate_size
    return ModelShape(
        architecture=architecture,
        layer_weights=sum(_used_weights(architecture, model.config)),
        linears=architecture.linears,
        adapted=targets,
        hidden_size=architecture.hidden_size,
        inner_size=inner * experts if experts else architecture.intermediate_size,
        vocab_size=architecture.vocab_size,
        num_heads=architecture.num_attention_heads,
        num_key_heads=architecture.num_key_value_heads,
        head_dim=architecture.head_dim,
        windows=windows,
    )


def _has_experts(architecture: Architecture) -> bool:
    return any(module.kind == "tensor" for module in architecture.layer)


def _used_weights(architecture: Architecture, config: dict[str, Any]) -> Iterator[float]:
    """Yield the weights of each module of a layer that one token is multiplied with."""
    for module in architecture.layer:
        if module.kind in ("linear", "conv1d"):
            yield prod(module.tensors[0][1])
        elif module.kind == "tensor":
            shape = module.tensors[0][1]
            share = config.get("num_experts_per_tok", shape[0]) / shape[0]
            yield prod(shape) * (share if len(shape) == 3 else 1)


def _shape_by_count(model: ResolvedModel) -> ModelShape:
    card, config = find_bundled_model(model.name), model.config
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    sizes = {name: config.get(name) for name in names}
    if card is None or not all(isinstance(size, int) for size in sizes.values()):
        raise NotCounted(
            f"How much one token multiplies in {config.get('model_type')} models is not known here."
        )
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    windows = attention_windows(config, layers)
    notes = [
        "Counted from the parameters that one token uses, not layer by layer; adapters' "
        "arithmetic is left out."
    ]
    if windows is None:
        windows = (None,) * layers
        notes.append("Layers of another kind are counted as attention over every token.")
    head = config["vocab_size"] * config["hidden_size"]
    tables = 1 if config.get("tie_word_embeddings") else 2
    return ModelShape(
        architecture=None,
        layer_weights=(card.active_parameters - tables * head) / layers,
        linears=(),
        adapted=(),
        hidden_size=config["hidden_size"],
        inner_size=config.get("intermediate_size") or 4 * config["hidden_size"],
        vocab_size=config["vocab_size"],
        num_heads=heads,
        num_key_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        windows=windows,
        notes=tuple(notes),
    )


def kernel(plan: FineTunePlan, shape: ModelShape) -> str:
    """Return the attention kernel of a plan's step: flash, efficient, math or eager."""
    grouped = shape.num_key_heads < shape.num_heads
    found = plan_attention(plan, plan.gpu_spec, head_dim=shape.head_dim, is_grouped=grouped)
    return found or "math"


def scores(plan: FineTunePlan, shape: ModelShape) -> list[int]:
    """Return, for each layer, how many scores its attention computes for one micro-batch.

    Flash and the memory-efficient kernel skip what a causal mask or a window hides; eager
    attention and the math kernel compute the whole square.
    """
    length = plan.seq_len
    whole = kernel(plan, shape) in ("math", "eager")
    per_example = [
        length * length if whole else _visible(length, window) for window in shape.windows
    ]
    return [plan.micro_batch_size * shape.num_heads * count for count in per_example]


def _visible(length: int, window: int | None) -> int:
    """Pairs of a token and one that it sees, itself included."""
    if window is None or window >= length:
        return length * (length + 1) // 2
    return window * (window + 1) // 2 + (length - window) * window


def num_backward_layers(plan: FineTunePlan, shape: ModelShape) -> int:
    """Return through how many layers gradients go: all, or the last ones that are trained."""
    if plan.method == "last_layers":
        return min(plan.num_trained_layers, shape.num_layers)
    return shape.num_layers


def count_work(plan: FineTunePlan, shape: ModelShape) -> list[Work]:
    """Return the matrix products of one micro-batch.

    Two floating-point operations for a weight and a token (Kaplan et al. 2020, 2.1). Backward
    takes as much again for the gradient of the input, and as much for the gradient of the weight
    where the weight is trained. Norms, activations, rotations and the softmax are left out: they
    take time for the bytes they move, not for arithmetic. The first layer's input gradients,
    which nobody needs where the embeddings are frozen, are counted: at most one layer too many.
    """
    tokens = plan.tokens_per_micro_batch
    layers, last = shape.num_layers, num_backward_layers(plan, shape)
    linear, adapter = 2 * tokens * shape.layer_weights, 2 * tokens * _adapter_weights(plan, shape)
    head = 2 * tokens * shape.vocab_size * shape.hidden_size
    # each score is one product of two heads' vectors, and weights one
    attention = [2 * 2 * shape.head_dim * count for count in scores(plan, shape)]
    trains_layers = plan.method in ("full", "last_layers")
    has_flash_backward = kernel(plan, shape) in ("flash", "efficient")
    backward_attention = sum(attention[layers - last :])
    work = [
        Work("linears", "forward", layers * linear),
        Work("adapters", "forward", layers * adapter),
        Work("attention", "forward", sum(attention)),
        Work("head", "forward", head),
        Work("linears", "backward", last * linear * (2 if trains_layers else 1)),
        Work("adapters", "backward", last * adapter * 2),
        Work(
            "attention",
            "backward",
            backward_attention * (_FLASH_BACKWARD if has_flash_backward else 2),
        ),
        Work("head", "backward", head * (2 if plan.method == "full" else 1)),
    ]
    if plan.gradient_checkpointing:
        work += [
            Work("linears", "recompute", last * linear),
            Work("adapters", "recompute", last * adapter),
            Work("attention", "recompute", backward_attention),
        ]
    return [one for one in work if one.flops]


def _adapter_weights(plan: FineTunePlan, shape: ModelShape) -> int:
    return sum(plan.adapter.r * (one.in_features + one.out_features) for one in shape.adapted)
