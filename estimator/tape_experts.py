"""A mixture of experts on a tape: transformers' router and its grouped products.

Source: ``grouped_mm_experts_forward`` in ``transformers/integrations/moe.py`` and the families'
TopKRouter, transformers 5.23. Every token is copied once for each expert that it is sent to.
"""

from __future__ import annotations

from estimator.layer_forms import LayerForm
from estimator.tape import Tape, Value
from estimator.tape_linears import Linears

_ROUTED = ("routed", "hidden")  # a row for each token and each of its experts
_ID = (("routed",), 8)


def experts(
    tape: Tape,
    form: LayerForm,
    linears: Linears,
    value: Value,
    *,
    trains: bool,
    autocast: bool,
    is_fp16: bool,
) -> Value:
    """Write the mixture in place of an MLP.

    Args:
        tape: What is written on.
        form: The family's; its router's weights are fp32 or of the model's type.
        linears: Makes weights and products.
        value: Its input.
        trains: Whether its layer is trained.
        autocast: Whether sums have 32 bits.
        is_fp16: Whether the router's 16 bits are fp16, of which softmax takes no copy.
    """
    itemsize = value.itemsize
    shares = _router(tape, form, linears, value, trains=trains, is_fp16=is_fp16)
    order = [tape.op((), *_ID) for _ in ("expert", "row")]
    chosen = tape.op((value,), _ROUTED, itemsize, keeps=(_ID,))
    del value
    outer = linears.weight(("experts", "hidden", "twice_expert_inner"), trains=trains)
    both = _grouped(tape, chosen, outer, "twice_expert_inner")
    gate, up = tape.split(both, [("routed", "expert_inner")] * 2)
    del both
    active = tape.op((gate,), gate.shape, gate.itemsize, saves=(gate,))
    del gate
    product = tape.op((active, up), up.shape, up.itemsize, saves=(active, up))
    del active, up
    inner = linears.weight(("experts", "expert_inner", "hidden"), trains=trains)
    result = _grouped(tape, product, inner, "hidden")
    del product
    result = _weighted(tape, result, shares)
    result = tape.op((result,), _ROUTED, result.itemsize, keeps=(_ID,))  # back in order
    total = tape.op(
        (result,), ("tokens", "hidden"), 4 if autocast else result.itemsize, passes=True
    )
    if total.node:
        total.node.gives_views = True  # the same gradient for each of a token's experts
    del result, chosen, order
    return tape.cast(total, itemsize)


def _router(
    tape: Tape, form: LayerForm, linears: Linears, value: Value, *, trains: bool, is_fp16: bool
) -> Value:
    """Write each token's experts, and how much each of them counts."""
    weight = linears.weight(("hidden", "experts"), trains=trains)
    logits = linears.matmul(value, weight, "experts")
    shape, itemsize = logits.shape, logits.itemsize
    if form.router_in_fp32 or not is_fp16:
        logits = tape.cast(logits, 4)
    shares = tape.op((logits,), shape, 4, saves_result=True, backward_needs=((shape, 4),))
    del logits
    top = ("tokens", "top_k")
    shares = tape.op((shares,), top, 4, keeps=((top, 8),))
    return shares if form.router_in_fp32 else tape.cast(shares, itemsize)


def _grouped(tape: Tape, value: Value, weight: Value, out: str) -> Value:
    """Each row times its own expert's matrix, in the weights' type."""
    value = tape.cast(value, weight.itemsize)
    saves = (value,) if weight.node else ()
    return tape.op((value, weight), (value.shape[0], out), value.itemsize, saves=saves)


def _weighted(tape: Tape, value: Value, shares: Value) -> Value:
    itemsize = max(value.itemsize, shares.itemsize)
    saves = (value,) if shares.node else ()
    needs = ((value.shape, itemsize),) if shares.node else ()
    inputs = (value, shares)
    return tape.op(inputs, value.shape, itemsize, saves=saves, backward_needs=needs)
