"""Linear layers on a tape: plain, under autocast, quantised, and with an adapter beside them."""

from __future__ import annotations

from estimator.byte_account import Shape
from estimator.estimate import Component
from estimator.structure import Structure
from estimator.tape import Leaf, Tape, Value


class Linears:
    """Writes matrix products, and owns what belongs to weights: leaves and 16-bit copies.

    Attributes:
        copies: Autocast's cache of 16-bit copies; it is emptied when the forward pass ends.
        leaves: Every trained weight's end of the tape: it holds the gradient.
    """

    def __init__(self, structure: Structure, tape: Tape) -> None:
        self.structure = structure
        self.tape = tape
        self.copies: list[Value] = []
        self.leaves: list[Leaf] = []

    # -- weights

    def weight(self, shape: Shape, *, trains: bool, uses: int = 1, itemsize: int = 0) -> Value:
        """A weight of the model: counted elsewhere, with a gradient where it is trained."""
        leaf = self._leaf(uses) if trains else None
        return Value(shape, itemsize or self.structure.stream_itemsize, None, leaf)

    def _adapter_weight(self, shape: Shape) -> Value:
        return self.weight(shape, trains=True, itemsize=self.structure.adapter_itemsize)

    def _leaf(self, uses: int = 1) -> Leaf:
        # several are added up in place if each went through a cast of its own
        in_place = uses == 1 or (self.structure.autocast and self.structure.stream_itemsize == 4)
        leaf = Leaf(uses=uses, keeps=not self.structure.accumulates, adds_in_place=in_place)
        self.leaves.append(leaf)
        return leaf

    # -- products

    def linear(self, value: Value, name: str, out: str, *, trains: bool) -> Value:
        """Write the layer's linear called ``name``, with an adapter where it is a target.

        Args:
            value: Its input; the last dimension is the linear's.
            name: What transformers calls it.
            out: The last dimension of its output.
            trains: Whether its layer is trained.
        """
        if self.structure.adapter == "lora" and name in self.structure.targets:
            return self._with_lora(value, name, out)
        if self.structure.adapter == "ia3" and name in self.structure.targets:
            return self._with_ia3(value, name, out)
        return self._base(value, name, out, trains=trains)

    def _base(self, value: Value, name: str, out: str, *, trains: bool) -> Value:
        if self.structure.quantization.startswith("4bit"):
            return self._in_4_bits(value, out)
        if self.structure.quantization == "int8":
            return self._in_8_bits(value, out)
        structure = self.structure
        weight = self.weight((value.shape[-1], out), trains=trains)
        bias = None
        if name in structure.biased:
            bias = self.weight((out,), trains=trains or structure.trains == "biases")
        return self.matmul(value, weight, out, bias=bias)

    def matmul(
        self,
        value: Value,
        weight: Value,
        out: str,
        *,
        bias: Value | None = None,
        component: Component = "temporaries",
    ) -> Value:
        """A matrix product; under autocast in 16 bits, with copies where the inputs have 32."""
        tape = self.tape
        if self.structure.autocast:
            value = tape.cast(value, 2)
            weight = self._copied(weight)
            bias = self._copied(bias) if bias else None
        return tape.op(
            (value, weight, bias) if bias else (value, weight),
            (*value.shape[:-1], out),
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

    def _in_4_bits(self, value: Value, out: str) -> Value:
        """bitsandbytes: the weight is made whole in 16 bits for each product, then let go."""
        tape, compute = self.tape, self.structure.weight_itemsize
        shape = (value.shape[-1], out)
        itemsize = value.itemsize
        value = tape.cast(value, compute)
        scales = ((*shape, "per_block"), 4)
        twice = (scales, scales) if self.structure.quantization == "4bit-double" else ()
        result = tape.op(
            (value,),
            (*value.shape[:-1], out),
            compute,
            needs=((shape, compute), *twice),
            backward_needs=((shape, compute),),
        )
        return tape.cast(result, itemsize)

    def _in_8_bits(self, value: Value, out: str) -> Value:
        """bitsandbytes' LLM.int8(): the input in 8 bits, and the weight made whole in backward.

        The function keeps its input by itself, so checkpointing does not free it.
        """
        shape, itemsize = value.shape, value.itemsize
        in_8_bits = ((shape, 1), (shape[:-1], 4))
        return self.tape.op(
            (value,),
            (*shape[:-1], out),
            itemsize,
            owns=(value,) if value.node else (),
            needs=in_8_bits,
            backward_needs=(((shape[-1], out), itemsize),),
        )

    def _with_lora(self, value: Value, name: str, out: str) -> Value:
        """LoRA beside a frozen linear: base + B(A(dropout(x))) * scale."""
        tape, structure = self.tape, self.structure
        result = self._base(value, name, out, trains=False)
        itemsize = result.itemsize
        if not (structure.quantization != "none" and structure.autocast):
            value = tape.cast(value, structure.adapter_itemsize)
        dropped = value
        if structure.dropout:
            dropped = tape.op((value,), value.shape, value.itemsize, keeps=((value.shape, 1),))
        down = self._adapter_weight((value.shape[-1], "rank"))
        up = self._adapter_weight(("rank", out))
        inner = self.matmul(dropped, down, "rank")
        del dropped
        outer = self.matmul(inner, up, out)
        del inner
        outer = tape.op((outer,), outer.shape, outer.itemsize)  # times alpha / r
        if structure.quantization != "none" and not structure.autocast:
            outer = tape.cast(outer, itemsize)
        result = tape.add(result, outer)
        del outer
        return tape.cast(result, itemsize)

    def _with_ia3(self, value: Value, name: str, out: str) -> Value:
        """IA³: the output scaled by a learned vector, of the feed-forward's last the input."""
        tape, structure = self.tape, self.structure
        quantized = structure.quantization != "none"
        is_last = name == structure.form.mlp_down
        given = value.itemsize
        if quantized and not structure.autocast:
            value = tape.cast(value, 4)
        if is_last:
            if not quantized:
                value = tape.cast(value, structure.adapter_itemsize)
            value = self._scaled(value)
            if not quantized:
                value = tape.cast(value, given)
        result = self._base(value, name, out, trains=False)
        del value
        itemsize = result.itemsize
        if not is_last:
            result = self._scaled(result)
        return result if quantized and structure.autocast else tape.cast(result, itemsize)

    def _scaled(self, value: Value) -> Value:
        weight = self._adapter_weight((value.shape[-1],))
        itemsize = max(value.itemsize, weight.itemsize)
        inputs, needs = (value, weight), ((value.shape, itemsize),)
        return self.tape.op(inputs, value.shape, itemsize, saves=(value,), backward_needs=needs)
