"""What a step moves through the GPU's memory beside its matrix products."""

from __future__ import annotations

from collections.abc import Sequence

from estimator.architecture import Linear
from estimator.flops import ModelShape, kernel, num_backward_layers, scores
from estimator.plan import BYTES_PER_VALUE, FineTunePlan
from estimator.states import read_states

_NORM = 36
"""One RMSNorm of 16 bits: to 32 bits, square, mean, scale, back, times the weight."""

_RESIDUAL = 6
"""One addition of 16 bits: two read, one written."""

_ROTARY = 14
"""Rotary embedding of 16 bits: halves swapped, two products, one sum."""

_GATE = 10
"""SiLU and the product with the gate, 16 bits."""

_LOGIT = 30
"""The loss: logits to 32 bits, log-softmax, its gradient, back to 16 bits."""

_ADAPTER = 8
"""The adapter's input cast, its output scaled and added, for each value in and out."""

_CAST = 6
"""One value from 32 to 16 bits or back."""

_SCORE_FORWARD, _SCORE_BACKWARD = 24, 36
"""Unfused attention: scores written, masked, through softmax in 32 bits, read again."""

_DEQUANTISE = 2.5
"""A 4-bit weight read and written in 16 bits."""


def bytes_moved_by_part(plan: FineTunePlan, shape: ModelShape) -> dict[str, float]:
    """Return the bytes that one micro-batch reads and writes, by part.

    Counted operation by operation from transformers 5.23's Llama, unfused, as eager PyTorch runs
    it; the constants above say what each stands for. Backward moves twice what forward does.
    """
    tokens, layers = plan.tokens_per_micro_batch, shape.num_layers
    last = num_backward_layers(plan, shape)
    again = 1 if plan.gradient_checkpointing else 0
    passes = layers + last * (2 + again)  # forward, backward twice, recomputed
    wide = 2 if _stream_is_32_bits(plan) else 1
    elementwise = wide * (
        shape.hidden_size * 2 * (_NORM + _RESIDUAL)
        + (shape.num_heads + shape.num_key_heads) * shape.head_dim * _ROTARY
        + shape.inner_size * _GATE
    )
    moved: dict[str, float] = {
        "activations": passes * tokens * elementwise,
        "logits": tokens * shape.vocab_size * _LOGIT,
        "adapters": passes * tokens * _width(shape.adapted) * _ADAPTER,
    }
    if plan.is_quantized:
        each = layers + last * (1 + again)
        if plan.autocast_dtype == "none" and plan.prepares_kbit:
            moved["casts"] = passes * tokens * _width(shape.linears) * _CAST
        moved["dequantisation"] = each * _weights(shape.linears) * _DEQUANTISE
    if kernel(plan, shape) in ("eager", "math"):
        counts = scores(plan, shape)
        moved["scores"] = sum(counts) * _SCORE_FORWARD
        moved["scores"] += sum(counts[layers - last :]) * (_SCORE_BACKWARD + again * _SCORE_FORWARD)
    return moved


def _width(linears: Sequence[Linear]) -> int:
    return sum(linear.in_features + linear.out_features for linear in linears)


def _weights(linears: Sequence[Linear]) -> int:
    return sum(linear.in_features * linear.out_features for linear in linears)


def _stream_is_32_bits(plan: FineTunePlan) -> bool:
    return plan.prepares_kbit or (plan.weights_dtype == "fp32" and plan.autocast_dtype == "none")


def bytes_moved_by_optimizer(plan: FineTunePlan, shape: ModelShape) -> int:
    """Return what one optimizer step reads and writes.

    Weights and states are read and written once, gradients read; clipping reads them once more
    and writes them. Of an architecture that is not described nothing is counted.
    """
    if shape.architecture is None:
        return 0
    states = read_states(plan, shape.architecture)
    dtype = plan.adapter.dtype if plan.uses_adapter else plan.weights_dtype
    trained = states.num_trainable * BYTES_PER_VALUE[dtype]
    gradients = states.gradients * (3 if plan.max_grad_norm else 1)
    return 2 * trained + 2 * states.optimizer_states + gradients
