"""What decides the order of a step's births and deaths, apart from every size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from estimator.architecture import Architecture
from estimator.gpu_facts import largest_efficient_head
from estimator.gpus import Gpu
from estimator.layer_forms import LayerForm
from estimator.plan import BYTES_PER_VALUE, FineTunePlan

Dimensions = dict[str, float]

_ROTARY_PARTS = {"gpt_neox": 0.25, "phi": 0.5, "stablelm": 0.25}
"""transformers' own defaults, where config.json does not say."""

_TOP_K = {"mixtral": 2, "qwen3_moe": 8, "olmoe": 8}
"""The same, of how many experts a token is sent to."""

_FLASH_ROWS = 128  # flash attention's backward pads the sequence to a multiple of this,
_FLASH_HEAD = 32  # and a head to a multiple of this
_MASK_ROW = 8  # the efficient kernel reads masks whose rows are a multiple of this,
_EFFICIENT_BLOCK = 64  # works on blocks of so many queries, keys and values of a head,
_SPLIT_BLOCKS = 200  # and splits keys into so many parts at most, over batch and heads


@dataclass(frozen=True, slots=True)
class Structure:
    """Everything about a step that is not a size: equal structures have equal tapes.

    Attributes:
        form: How the family's layers are made.
        biased: The linears that have a bias.
        tied: Whether the head shares the embeddings' weight.
        grouped: Whether there are fewer key heads than query heads.
        groups: Runs of equal layers from the bottom: whether they are trained, and whether there
            is more than one.
        trains: What of the model's own weights is trained: ``all``, ``layers`` (those of the
            groups that say so), ``biases`` or ``none``.
        adapter: The adapter's method, empty where there is none.
        targets: The linears it sits on.
        dropout: Whether its input goes through dropout.
        quantization: none, 4bit, 4bit-double or int8.
        weight_itemsize: Bytes of a weight as it is stored (or was, before quantisation).
        stream_itemsize: Bytes of an embedding, a norm and so of the residual stream.
        adapter_itemsize: Bytes of an adapter's weight.
        autocast: Whether matrix products are cast to 16 bits.
        checkpointing: Whether each layer is computed again in backward.
        accumulates: Whether gradients are already there, from an earlier micro-batch.
        keep_outputs: Whether the logits stay alive through backward.
        kernel: flash, efficient, math or eager.
        is_fp16: Whether the 16 bits are fp16, where softmax is taken of them: from bf16 CUDA makes
            a 32-bit copy first.
        masked: Whether a mask is passed.
        batched: Whether there is more than one example, where the kernel cares.
        splits_keys: Whether the efficient kernel's backward sums dk and dv in a workspace.
    """

    form: LayerForm
    biased: frozenset[str]
    tied: bool
    grouped: bool
    groups: tuple[tuple[bool, bool], ...]
    trains: str
    adapter: str
    targets: frozenset[str]
    dropout: bool
    quantization: str
    weight_itemsize: int
    stream_itemsize: int
    adapter_itemsize: int
    autocast: bool
    checkpointing: bool
    accumulates: bool
    keep_outputs: bool
    kernel: str
    is_fp16: bool
    masked: bool
    batched: bool
    splits_keys: bool


def structure_of(
    plan: FineTunePlan, architecture: Architecture, form: LayerForm, kernel: str, gpu: Gpu
) -> Structure:
    """Return the structure of a plan's step where attention takes ``kernel`` on ``gpu``."""
    weight_itemsize = BYTES_PER_VALUE[plan.weights_dtype]
    names = {linear.name.rpartition(".")[2]: linear for linear in architecture.linears}
    targets = plan.adapter.target_modules
    chosen = frozenset(names) if targets == "all-linear" else frozenset(targets)
    if plan.method == "ia3":
        chosen = frozenset((*form.ia3, form.mlp_down))
    trains = {"full": "all", "last_layers": "layers", "bitfit": "biases"}.get(plan.method, "none")
    quantization = plan.quantization
    if quantization in ("nf4", "fp4"):
        quantization = "4bit-double" if plan.double_quant else "4bit"
    return Structure(
        form=form,
        biased=frozenset(name for name, linear in names.items() if linear.has_bias),
        tied=architecture.tie_word_embeddings,
        grouped=architecture.num_key_value_heads < architecture.num_attention_heads,
        groups=tuple((trained, count > 1) for trained, count in _groups(plan, architecture)),
        trains=trains,
        adapter="lora" if plan.method == "qlora" else plan.method * plan.uses_adapter,
        targets=chosen if plan.uses_adapter else frozenset(),
        dropout=plan.uses_adapter and plan.adapter.dropout > 0,
        quantization=quantization,
        weight_itemsize=weight_itemsize,
        stream_itemsize=4 if plan.prepares_kbit else weight_itemsize,
        adapter_itemsize=BYTES_PER_VALUE[plan.adapter.dtype],
        autocast=plan.autocast_dtype != "none",
        checkpointing=plan.gradient_checkpointing,
        accumulates=plan.gradient_accumulation_steps > 1,
        keep_outputs=plan.keep_outputs,
        kernel=kernel,
        is_fp16=(kernel == "eager" or form.mlp == "experts")
        and "fp16" in (plan.weights_dtype, plan.autocast_dtype),
        masked=plan.padded,
        batched=kernel in ("eager", "math") and plan.micro_batch_size > 1,
        splits_keys=kernel == "efficient" and architecture.head_dim > largest_efficient_head(gpu),
    )


def dimensions(
    plan: FineTunePlan, architecture: Architecture, config: dict[str, Any]
) -> Dimensions:
    """Return the size of every dimension that the tape's shapes are written in.

    ``query`` and ``key`` are a token's queries and keys over all heads, ``scale_block`` and
    ``repeats0`` count what their names say for one 4-bit weight and for a group of layers.
    """
    heads, head_dim = architecture.num_attention_heads, architecture.head_dim
    key_heads = architecture.num_key_value_heads
    rotary = int(head_dim * _rotary_part(config))
    seq_len = plan.seq_len
    if plan.method == "prompt_tuning":
        seq_len += plan.adapter.num_virtual_tokens
    top_k = config.get("num_experts_per_tok") or _TOP_K.get(architecture.model_type, 1)
    expert_inner = config.get("moe_intermediate_size") or architecture.intermediate_size
    blocks = -(-seq_len // _EFFICIENT_BLOCK)
    parts = _SPLIT_BLOCKS // (plan.micro_batch_size * heads)
    sizes: Dimensions = {
        "batch": plan.micro_batch_size,
        "seq": seq_len,
        "tokens": plan.micro_batch_size * seq_len,
        "given_tokens": plan.tokens_per_micro_batch,
        "virtual_tokens": plan.adapter.num_virtual_tokens,
        "hidden": architecture.hidden_size,
        "inner": architecture.intermediate_size,
        "vocab": architecture.vocab_size,
        "heads": heads,
        "key_heads": key_heads,
        "head_dim": head_dim,
        "query": heads * head_dim,
        "key": key_heads * head_dim,
        "query_key_value": (heads + 2 * key_heads) * head_dim,
        "rotary_query": heads * rotary,
        "rotary_key": key_heads * rotary,
        "twice_inner": 2 * architecture.intermediate_size,
        "positions": config.get("max_position_embeddings") or config.get("n_positions") or 1,
        "experts": config.get("num_experts") or config.get("num_local_experts") or 1,
        "top_k": top_k,
        "routed": plan.micro_batch_size * seq_len * top_k,
        "expert_inner": expert_inner,
        "twice_expert_inner": 2 * expert_inner,
        "rank": plan.adapter.r,
        "half": 1 / 2,
        "per_block": 1 / 64,  # of a 4-bit weight, the elements that share a scale
        "padded_seq": -(-seq_len // _FLASH_ROWS) * _FLASH_ROWS,
        "padded_head": -(-head_dim // _FLASH_HEAD) * _FLASH_HEAD,
        "mask_row": -(-seq_len // _MASK_ROW) * _MASK_ROW,
        "efficient_seq": blocks * _EFFICIENT_BLOCK,
        "efficient_head": -(-head_dim // _EFFICIENT_BLOCK) * _EFFICIENT_BLOCK,
        "split_rows": max(1, min(blocks, parts)) * _EFFICIENT_BLOCK,
    }
    for index, (_, count) in enumerate(_groups(plan, architecture)):
        sizes[f"repeats{index}"] = max(count - 2, 0)
    return sizes


def _rotary_part(config: dict[str, Any]) -> float:
    """Return how much of a head is turned, where it is not all of it."""
    parameters = config.get("rope_parameters") or {}
    keys = ("partial_rotary_factor", "rotary_pct")
    given = (source[key] for source in (parameters, config) for key in keys if key in source)
    return next(given, _ROTARY_PARTS.get(str(config.get("model_type")), 1.0))


def _groups(plan: FineTunePlan, architecture: Architecture) -> list[tuple[bool, int]]:
    """Return runs of equal layers from the bottom: whether they are trained, and how many."""
    count = architecture.num_hidden_layers
    if plan.method != "last_layers":
        return [(plan.method == "full", count)]
    trained = plan.num_trained_layers
    return [group for group in ((False, count - trained), (True, trained)) if group[1]]
