"""Attention on a tape: PyTorch's kernels, and transformers' eager attention."""

from __future__ import annotations

from estimator.byte_account import Shape, Size
from estimator.structure import Structure
from estimator.tape import Tape, Value

_ROWS = ("tokens", "heads")  # one number for each query and head
_SCORES: Shape = ("batch", "heads", "seq", "seq")
_QUERY: Shape = ("tokens", "query")


def mask_before(tape: Tape, structure: Structure) -> Value | None:
    """Write the mask that transformers builds once for all layers, if it does."""
    if structure.kernel == "eager":  # added to the scores
        return tape.op((), ("batch", "seq", "seq"), structure.stream_itemsize)
    if structure.masked:
        return tape.op((), ("batch", "seq", "seq"), 1)
    return None


def attend(
    tape: Tape,
    structure: Structure,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None,
) -> Value:
    """Write attention and return its output, of the queries' shape.

    Where there is a mask, transformers expands the key heads itself; without one a kernel that
    cannot take fewer of them is given expanded ones by PyTorch.
    """
    kernel = structure.kernel
    if kernel == "eager":
        return _eager(tape, structure, query, key, value, mask)
    if structure.grouped and mask:
        key, value = _expanded(tape, key), _expanded(tape, value)
    if structure.autocast:
        query, key, value = (tape.cast(one, 2) for one in (query, key, value))
    if structure.grouped and not mask and kernel != "flash":
        key, value = _expanded(tape, key), _expanded(tape, value)
    if kernel == "math":
        return _math(tape, structure, query, key, value, mask)
    added = ()
    if mask:  # turned from yes and no into what is added to the scores
        added = (tape.op((), ("batch", "seq", "mask_row"), query.itemsize),)
    output = tape.op(
        (query, key, value),
        query.shape,
        query.itemsize,
        saves=(query, key, value, *added),
        saves_result=True,
        keeps=((_ROWS, 4),),
        backward_needs=_backward_needs(structure, query),
    )
    if kernel == "flash" and structure.form.rotary == "partial":
        # queries that were put together lie head by head, and flash's output like them
        return tape.op((output,), output.shape, output.itemsize, passes=True)
    return output


def _backward_needs(structure: Structure, query: Value) -> tuple[Size, ...]:
    """What the fused kernels take while they run backward.

    Flash: dq summed in 32 bits, row sums, dk and dv per query head. Efficient: row sums and dq
    in 32 bits; where a head does not fit the registers, dk and dv as well.
    """
    if structure.kernel == "flash":
        rows = ("batch", "padded_seq", "heads")
        needs: tuple[Size, ...] = (((*rows, "padded_head"), 4), (rows, 4))
        return (*needs, query.size, query.size) if structure.grouped else needs
    sums = (("batch", "heads", "efficient_seq", "efficient_head"), 4)
    if not structure.splits_keys or query.itemsize == 4:
        return (_ROWS, 4), sums
    return (_ROWS, 4), sums, (("batch", "heads", "split_rows", "efficient_head"), 8)


def _expanded(tape: Tape, value: Value) -> Value:
    """Keys or values repeated for each query head."""
    return tape.op((value,), _QUERY, value.itemsize)


def _in_rows(tape: Tape, structure: Structure, value: Value, *, copied: bool = False) -> Value:
    """A matrix for each example and head: heads lie within tokens, so a batch has to be copied."""
    if structure.batched and not copied:
        return tape.op((value,), value.shape, value.itemsize, passes=True)
    return value


def _product(tape: Tape, left: Value, right: Value, shape: Shape) -> Value:
    """A product of two matrices that both have a history."""
    saves = (left,) if right.node else ()
    saves += (right,) if left.node else ()
    return tape.op((left, right), shape, left.itemsize, saves=saves)


def _eager(
    tape: Tape,
    structure: Structure,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None,
) -> Value:
    """transformers' eager_attention_forward, with CUDA's softmax.

    It turns fp16 into fp32 by itself, of bf16 there is a copy first; backward first multiplies
    gradient and result.
    """
    itemsize, grouped = query.itemsize, structure.grouped
    if grouped:
        key, value = _expanded(tape, key), _expanded(tape, value)
    if structure.autocast:
        query, key = tape.cast(query, 2), tape.cast(key, 2)
    query = _in_rows(tape, structure, query)
    key = _in_rows(tape, structure, key, copied=grouped)
    scores = _product(tape, query, key, _SCORES)
    del query, key
    scores = tape.op((scores,), _SCORES, scores.itemsize)  # times the scale
    if structure.form.capped_scores:  # divided, through a tanh, multiplied
        for is_tanh in (False, True, False):
            scores = tape.op((scores,), _SCORES, scores.itemsize, saves_result=is_tanh)
    if mask:
        scores = tape.add(scores, mask)
    if not structure.is_fp16:
        scores = tape.cast(scores, 4)
    weights = tape.op((scores,), _SCORES, 4, saves_result=True, backward_needs=((_SCORES, 4),))
    del scores
    weights = tape.cast(weights, itemsize)
    if structure.autocast:
        weights, value = tape.cast(weights, 2), tape.cast(value, 2)
    value = _in_rows(tape, structure, value, copied=grouped)
    output = _product(tape, weights, value, _QUERY)
    del weights, value
    return tape.op((output,), _QUERY, output.itemsize)  # heads back within tokens


def _math(
    tape: Tape,
    structure: Structure,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None,
) -> Value:
    """PyTorch's _scaled_dot_product_attention_math, in 32 bits."""
    itemsize, grouped = query.itemsize, structure.grouped
    query, key, value = (tape.cast(one, 4) for one in (query, key, value))
    query = tape.op((query,), query.shape, 4)  # each times the root of the scale
    rows = ("batch", "seq", "seq") if mask else ("seq", "seq")
    added = tape.op((), rows, 4)
    key = tape.op((key,), key.shape, 4)
    query = _in_rows(tape, structure, query)
    key = _in_rows(tape, structure, key, copied=grouped)
    scores = _product(tape, query, key, _SCORES)
    del query, key, added
    weights = tape.op((scores,), _SCORES, 4, saves_result=True, backward_needs=((_SCORES, 4),))
    del scores
    value = _in_rows(tape, structure, value, copied=grouped)
    output = _product(tape, weights, value, _QUERY)
    del value
    second = tape.cast(weights, itemsize)  # PyTorch returns the weights too; nobody keeps them
    output = tape.cast(output, itemsize)
    del weights, second
    return tape.op((output,), _QUERY, output.itemsize)  # heads back within tokens
