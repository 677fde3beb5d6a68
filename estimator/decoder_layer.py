"""One decoder layer, operation by operation, as transformers' modeling files write it."""

from __future__ import annotations

from estimator.structure import Structure
from estimator.tape import Tape, Value
from estimator.tape_attention import attend
from estimator.tape_linears import Linears


class DecoderLayer:
    """Writes the operations of one layer on a tape.

    Args:
        structure: The family's form, precision, adapter, attention kernel.
        tape: What is written on.
        linears: The layer's matrix products.
    """

    def __init__(self, structure: Structure, tape: Tape, linears: Linears) -> None:
        self.structure = structure
        self.form = structure.form
        self.tape = tape
        self.linears = linears
        self.mask: Value | None = None

    def write(self, stream: Value, trains: bool) -> Value:
        """Write a layer from its input to its output."""
        tape = self.tape
        value = self.norm(stream, trains)
        value = self._attention(value, trains)
        stream = tape.add(stream, value)
        value = self.norm(stream, trains)
        value = self._mlp(value, trains)
        return tape.add(stream, value)

    def norm(self, value: Value, trains: bool) -> Value:
        """RMSNorm over the last dimension, in 32 bits."""
        tape, itemsize, shape = self.tape, value.itemsize, value.shape
        rows, whole = shape[:-1], (shape, 4)
        floats = tape.cast(value, 4)
        square = tape.op((floats,), shape, 4, saves=(floats,), backward_needs=(whole, whole))
        mean = tape.op((square,), rows, 4)
        del square
        root = tape.op((mean,), rows, 4, saves_result=True)
        del mean
        scaled = tape.op((floats, root), shape, 4, saves=(floats, root), backward_needs=(whole,))
        del floats, root
        rounded = tape.cast(scaled, itemsize)  # the 32-bit one lives on until the norm returns
        weight = self.linears.weight((shape[-1],), trains=trains)
        saves = (rounded,) if weight.node else ()
        needs = (rounded.size,) if weight.node else ()
        return tape.op((rounded, weight), shape, itemsize, saves=saves, backward_needs=needs)

    def _attention(self, value: Value, trains: bool) -> Value:
        names = self.form.query_key_value
        query = self._projected(value, names[0], "heads", trains)
        key = self._projected(value, names[1], "key_heads", trains)
        states = self.linears.linear(value, names[2], "key", trains=trains)
        del value
        query, key = self._rotary(query), self._rotary(key)
        output = attend(self.tape, self.structure, query, key, states, self.mask)
        del query, key, states
        return self.linears.linear(output, self.form.attention_out, "hidden", trains=trains)

    def _projected(self, value: Value, name: str, heads: str, trains: bool) -> Value:
        """Queries or keys, with a norm over each head where the architecture has one."""
        out = "query" if heads == "heads" else "key"
        value = self.linears.linear(value, name, out, trains=trains)
        if self.form.query_norm == "head":
            viewed = Value(("tokens", heads, "head_dim"), value.itemsize, value.storage, value.node)
            del value
            value = self.norm(viewed, trains)
            del viewed
            return Value(("tokens", out), value.itemsize, value.storage, value.node)
        return value

    def _rotary(self, value: Value) -> Value:
        tape = self.tape
        itemsize = max(value.itemsize, self.structure.stream_itemsize)
        by_cos = tape.op((value,), value.shape, itemsize)
        quarter = ((*value.shape, "half"), value.itemsize)  # one half, negated
        half = tape.op((value,), value.shape, value.itemsize, needs=(quarter,))
        by_sin = tape.op((half,), value.shape, itemsize)
        del half, value
        return tape.add(by_cos, by_sin)

    def _mlp(self, value: Value, trains: bool) -> Value:
        tape = self.tape
        gate = self.linears.linear(value, "gate_proj", "inner", trains=trains)
        active = tape.op((gate,), gate.shape, gate.itemsize, saves=(gate,))
        del gate
        up = self.linears.linear(value, "up_proj", "inner", trains=trains)
        del value
        product = tape.op((active, up), up.shape, up.itemsize, saves=(active, up))
        del active, up
        return self.linears.linear(product, "down_proj", "hidden", trains=trains)
