"""How each family's decoder layers are made, as far as it decides what they keep in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

_TABLE = Path(__file__).with_name("data") / "layers.json"

_KEEPS_INPUT = ("silu", "swish", "gelu", "gelu_pytorch_tanh", "quick_gelu")
_ACTIVATION_KEYS = ("hidden_activation", "hidden_act", "activation_function")


@dataclass(frozen=True, slots=True)
class LayerForm:
    """One family's layer; the defaults are Llama's.

    Attributes:
        norm: ``rms`` (rounded to the stream's type, then times the weight), ``rms_fp32`` (times
            the weight, then rounded) or ``layer``.
        residual: Where norms stand: ``pre`` each block, ``post`` each block (before it is added),
            ``both``, one for two ``parallel`` blocks, or one for each of them
            (``parallel_two``).
        query_norm: Norms over queries and keys: ``none``, over each ``head``, or the ``whole``.
        rotary: How much of a head is turned: ``full``, ``partial`` (and put together with the
            rest) or ``none``.
        rotary_fp32: Whether queries and keys are turned in 32 bits.
        query_scale: Whether queries are multiplied by a number before attention.
        fused_qkv: The name of the one linear for queries, keys and values, where there is one.
        slices_qkv: Whether it is cut by slicing (each slice's gradient is whole) or by a split.
        mlp: ``gated``, ``fused`` (gate and up in one linear), ``plain`` (up, activation, down)
            or ``experts``.
        router_in_fp32: Whether the shares of a token's experts stay in 32 bits.
        activation: What the MLP's activation keeps: its ``input``, its ``result``, or all that
            GPT-2's ``composite`` of seven operations does.
        learned_positions: Whether positions are embeddings that are added to the words': looked
            up once for all examples (``shared``) or for ``each``.
        embedding_scale: Whether the embeddings' output is multiplied by a number: ``within`` the
            embedding's module, or ``after`` it.
        residual_scale: Whether each block's output is.
        logits_scale: Whether the logits are.
        capped_scores: Whether attention's scores go through a tanh, for which there is no kernel.
        capped_logits: Whether the logits do.
        ia3: What IA³ scales beside the last of the feed-forward, as peft lists it.
        eager_only: Whether transformers has only eager attention for it.
        num_masks: Masks that eager attention has, one for each kind of layer.
        residual_dropout: Whether each block's output goes through dropout.
        embedding_dropout: Whether the embeddings' does.
        attention_dropout: Whether attention's weights do.
    """

    norm: Literal["rms", "rms_fp32", "layer"] = "rms"
    residual: Literal["pre", "post", "both", "parallel", "parallel_two"] = "pre"
    query_norm: Literal["none", "head", "whole"] = "none"
    rotary: Literal["full", "partial", "none"] = "full"
    rotary_fp32: bool = False
    query_scale: bool = False
    fused_qkv: str = ""
    slices_qkv: bool = False
    query_key_value: tuple[str, str, str] = ("q_proj", "k_proj", "v_proj")
    attention_out: str = "o_proj"
    mlp: Literal["gated", "fused", "plain", "experts"] = "gated"
    router_in_fp32: bool = False
    mlp_up: str = "up_proj"
    mlp_down: str = "down_proj"
    activation: Literal["input", "result", "composite"] = "input"
    learned_positions: Literal["", "shared", "each"] = ""
    embedding_scale: Literal["", "within", "after"] = ""
    residual_scale: bool = False
    logits_scale: bool = False
    capped_scores: bool = False
    capped_logits: bool = False
    ia3: tuple[str, ...] = ("k_proj", "v_proj")
    eager_only: bool = False
    num_masks: int = 1
    residual_dropout: bool = False
    embedding_dropout: bool = False
    attention_dropout: bool = False


@cache
def _rows() -> dict[str, dict[str, Any]]:
    return json.loads(_TABLE.read_text(encoding="utf-8"))


def described_types() -> tuple[str, ...]:
    """Return the model types whose layers are described."""
    return tuple(_rows())


def layer_form(config: dict[str, Any]) -> LayerForm | None:
    """Return how the layers of a config.json's model are made, None where it is not described.

    The family's row says what is always so; keys of the configuration the rest.
    """
    row = _rows().get(str(config.get("model_type")))
    if row is None:
        return None
    known = {field.name for field in fields(LayerForm)}
    values: dict[str, Any] = {key: value for key, value in row.items() if key in known}
    if "ia3" in row:
        values["ia3"] = tuple(row["ia3"])
    values["attention_dropout"] = bool(config.get("attention_dropout"))
    for name, (key, default) in row.get("set_by", {}).items():
        given = config.get(key, default)
        values[name] = bool(given)
    activation = next((config[key] for key in _ACTIVATION_KEYS if config.get(key)), None)
    values["activation"] = _activation(activation or row.get("activation", "silu"))
    if values["activation"] is None:
        return None
    if config.get("use_parallel_residual") is False:
        values["residual"] = "pre"
    return LayerForm(**values)


def _activation(name: str) -> str | None:
    if name in _KEEPS_INPUT:
        return "input"
    return {"relu": "result", "gelu_new": "composite"}.get(name)
