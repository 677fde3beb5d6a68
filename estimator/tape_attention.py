"""Attention on a tape: PyTorch's fused kernels."""

from __future__ import annotations

from estimator.byte_account import Size
from estimator.structure import Structure
from estimator.tape import Tape, Value

_ROWS = ("tokens", "heads")  # one number for each query and head


def attend(tape: Tape, structure: Structure, query: Value, key: Value, value: Value) -> Value:
    """Write attention and return its output, of the queries' shape."""
    if structure.autocast:
        query, key, value = (tape.cast(one, 2) for one in (query, key, value))
    return tape.op(
        (query, key, value),
        query.shape,
        query.itemsize,
        saves=(query, key, value),
        saves_result=True,
        keeps=((_ROWS, 4),),
        backward_needs=_backward_needs(structure, query),
    )


def _backward_needs(structure: Structure, query: Value) -> tuple[Size, ...]:
    """Flash attention's backward: dq summed in 32 bits, row sums, dk and dv per query head."""
    if structure.kernel == "efficient":  # row sums only
        return ((_ROWS, 4),)
    rows = ("batch", "padded_seq", "heads")
    needs: tuple[Size, ...] = (((*rows, "padded_head"), 4), (rows, 4))
    return (*needs, query.size, query.size) if structure.grouped else needs
