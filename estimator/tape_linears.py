"""Linear layers on a tape of bytes: plain, under autocast, in 4 bits, and with LoRA beside them."""

from __future__ import annotations

from estimator.architecture import Architecture, Linear
from estimator.estimate import Component
from estimator.plan import BYTES_PER_VALUE, FineTunePlan
from estimator.tape import Leaf, Tape, Value


class Linears:
    """Writes matrix products, and owns what belongs to weights: leaves and 16-bit copies.

    Attributes:
        copies: Autocast's cache of 16-bit copies; it is emptied when the forward pass ends.
        leaves: Every trained weight's end of the tape: it holds the gradient.
    """

    def __init__(
        self, plan: FineTunePlan, architecture: Architecture, tape: Tape, *, accumulates: bool
    ) -> None:
        self.plan = plan
        self.tape = tape
        self.accumulates = accumulates
        self.tokens = plan.tokens_per_micro_batch
        self.autocast = plan.autocast_dtype != "none"
        self.weight_itemsize = BYTES_PER_VALUE[plan.weights_dtype]
        self.adapter_itemsize = BYTES_PER_VALUE[plan.adapter.dtype]
        self.stream_itemsize = 4 if plan.prepares_kbit else self.weight_itemsize
        self.linears = {linear.name.rpartition(".")[2]: linear for linear in architecture.linears}
        self.copies: list[Value] = []
        self.leaves: list[Leaf] = []

    def weight(self, count: int, *, trains: bool, uses: int = 1) -> Value:
        """A weight of the model: counted elsewhere, with a gradient where it is trained."""
        leaf = self._leaf(uses) if trains else None
        return Value(count, self.stream_itemsize, None, leaf)

    def _leaf(self, uses: int = 1) -> Leaf:
        in_place = uses == 1 or self.autocast
        leaf = Leaf(uses=uses, keeps=not self.accumulates, adds_in_place=in_place)
        self.leaves.append(leaf)
        return leaf

    def linear(self, value: Value, name: str, *, trains: bool) -> Value:
        """Write the layer's linear called ``name``, with LoRA beside it where it is a target."""
        linear = self.linears[name]
        if self._is_target(name):
            return self._adapted(value, linear)
        return self._base(value, linear, trains=trains)

    def _base(self, value: Value, linear: Linear, *, trains: bool) -> Value:
        if self.plan.is_quantized:
            return self._linear_4bit(value, linear)
        weight = self.weight(linear.in_features * linear.out_features, trains=trains)
        return self.matmul(value, weight, linear.out_features)

    def _is_target(self, name: str) -> bool:
        targets = self.plan.adapter.target_modules
        return self.plan.uses_adapter and (targets == "all-linear" or name in targets)

    def matmul(
        self,
        value: Value,
        weight: Value,
        out_features: int,
        *,
        component: Component = "temporaries",
    ) -> Value:
        """A matrix product; under autocast in 16 bits, with copies where the inputs have 32."""
        tape = self.tape
        if self.autocast:
            value = tape.cast(value, 2)
            weight = self._copied(weight)
        return tape.op(
            (value, weight),
            self.tokens * out_features,
            value.itemsize,
            saves=(value,) if weight.node else (),
            holds=(weight,) if value.node else (),
            component=component,
        )

    def _copied(self, weight: Value) -> Value:
        """Autocast's 16-bit copy, which it caches until the forward pass ends if it is trained."""
        copy = self.tape.cast(weight, 2)
        if copy is not weight and weight.node is not None:
            self.copies.append(copy)
        return copy

    def _linear_4bit(self, value: Value, linear: Linear) -> Value:
        tape = self.tape
        count = linear.in_features * linear.out_features
        compute = self.weight_itemsize
        itemsize = value.itemsize
        value = tape.cast(value, compute)
        whole = count * compute  # the weight as it was
        scales = 8 * -(-count // 64) if self.plan.double_quant else 0  # in 32 bits, twice
        result = tape.op(
            (value,),
            self.tokens * linear.out_features,
            compute,
            needs=whole + scales,
            backward_needs=whole,
        )
        return tape.cast(result, itemsize)

    def _adapted(self, value: Value, linear: Linear) -> Value:
        """LoRA beside a frozen linear: base + B(A(dropout(x))) * scale."""
        tape, adapter = self.tape, self.plan.adapter
        result = self._base(value, linear, trains=False)
        itemsize = result.itemsize
        if not (self.plan.is_quantized and self.autocast):
            value = tape.cast(value, self.adapter_itemsize)
        dropped = value
        if adapter.dropout:
            dropped = tape.op((value,), value.count, value.itemsize, keeps=value.count)
        down = self._adapter_weight(linear.in_features)
        up = self._adapter_weight(linear.out_features)
        inner = self.matmul(dropped, down, adapter.r)
        del dropped
        outer = self.matmul(inner, up, linear.out_features)
        del inner
        outer = tape.op((outer,), outer.count, outer.itemsize)  # times alpha / r
        if self.plan.is_quantized and not self.autocast:
            outer = tape.cast(outer, itemsize)
        result = tape.add(result, outer)
        del outer
        return tape.cast(result, itemsize)

    def _adapter_weight(self, features: int) -> Value:
        return Value(features * self.plan.adapter.r, self.adapter_itemsize, None, self._leaf())
