"""Norms on a tape: RMSNorm as transformers writes it, LayerNorm as PyTorch has it."""

from __future__ import annotations

from estimator.tape import Tape, Value


def rms_norm(tape: Tape, value: Value, weight: Value, *, in_fp32: bool) -> Value:
    """RMSNorm over the last dimension, in 32 bits.

    Args:
        tape: What is written on.
        value: What is normed.
        weight: The norm's weight.
        in_fp32: Whether the weight is multiplied before the result is rounded, not after.
    """
    itemsize, shape = value.itemsize, value.shape
    rows, whole = shape[:-1], (shape, 4)
    floats = tape.cast(value, 4)
    square = tape.op((floats,), shape, 4, saves=(floats,), backward_needs=(whole, whole))
    mean = tape.op((square,), rows, 4)
    del square
    root = tape.op((mean,), rows, 4, saves_result=True)
    del mean
    scaled = tape.op((floats, root), shape, 4, saves=(floats, root), backward_needs=(whole,))
    del floats, root
    if in_fp32:
        weighted = _weighted(tape, scaled, weight)
        del scaled
        return tape.cast(weighted, itemsize)
    rounded = tape.cast(scaled, itemsize)  # the 32-bit one lives on until the norm returns
    return _weighted(tape, rounded, weight)


def _weighted(tape: Tape, value: Value, weight: Value) -> Value:
    saves = (value,) if weight.node else ()
    needs = (value.size,) if weight.node else ()
    inputs = (value, weight)
    return tape.op(inputs, value.shape, value.itemsize, saves=saves, backward_needs=needs)


def layer_norm(tape: Tape, value: Value, weight: Value, bias: Value, *, autocast: bool) -> Value:
    """LayerNorm over the last dimension, which CUDA's autocast runs in 32 bits.

    It keeps its input, and a mean and a root for each row.
    """
    if autocast:
        value = tape.cast(value, 4)
    row = (value.shape[:-1], 4)
    inputs = (value, weight, bias)
    return tape.op(inputs, value.shape, value.itemsize, saves=(value,), keeps=(row, row))
