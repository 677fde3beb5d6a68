"""How each family's decoder layers are made, as far as it decides what they keep in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

_TABLE = Path(__file__).with_name("data") / "layers.json"


@dataclass(frozen=True, slots=True)
class LayerForm:
    """One family's layer; the defaults are Llama's.

    Attributes:
        norm: ``rms`` (rounded, then times the weight), ``rms_weighted`` (times the weight, then
            rounded), ``rms_plus_one`` (times one plus the weight, in 32 bits) or ``layer``.
        residual: Where norms stand: ``pre`` each block, ``post`` each block (before it is added),
            ``both``, or one for two ``parallel`` blocks (``parallel_two``: one for each).
        query_norm: Norms over queries and keys: none, over each ``head``, or over the ``whole``.
        rotary: How much of a head is turned: ``full``, ``partial`` or ``none``.
        mlp: ``gated``, ``fused`` (gate and up in one linear) or ``plain`` (up, activation, down).
        activation: The MLP's activation function, by transformers' name.
        learned_positions: Whether positions are embeddings that are added to the words'.
        embedding_scale: Whether the embeddings' output is multiplied by a number.
        residual_scale: Whether each block's output is.
        logits_scale: Whether the logits are.
        capped_scores: Whether attention's scores go through a tanh.
    """

    norm: Literal["rms", "rms_weighted", "rms_plus_one", "layer"] = "rms"
    residual: Literal["pre", "post", "both", "parallel", "parallel_two"] = "pre"
    query_norm: Literal["none", "head", "whole"] = "none"
    rotary: Literal["full", "partial", "none"] = "full"
    mlp: Literal["gated", "fused", "plain"] = "gated"
    activation: str = "silu"
    fused_qkv: str = ""
    query_key_value: tuple[str, str, str] = ("q_proj", "k_proj", "v_proj")
    attention_out: str = "o_proj"
    mlp_up: str = "up_proj"
    mlp_down: str = "down_proj"
    learned_positions: bool = False
    embedding_scale: bool = False
    residual_scale: bool = False
    logits_scale: bool = False
    capped_scores: bool = False


@cache
def _forms() -> dict[str, dict[str, Any]]:
    return json.loads(_TABLE.read_text(encoding="utf-8"))


def described_types() -> tuple[str, ...]:
    """Return the model types whose layers are described."""
    return tuple(_forms())


@cache
def layer_form(model_type: str) -> LayerForm:
    """Return how a described family's layers are made."""
    row = _forms()[model_type]
    names = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return LayerForm(**names)
