"""One decoder layer, operation by operation, as transformers' modeling files write it."""

from __future__ import annotations

from estimator.structure import Structure
from estimator.tape import Tape, Value
from estimator.tape_attention import attend
from estimator.tape_experts import experts
from estimator.tape_linears import Linears
from estimator.tape_norms import layer_norm, rms_norm


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
        tape, residual = self.tape, self.form.residual
        if residual.startswith("parallel"):
            return self._parallel(stream, trains)
        for block in (self._attention, self._mlp):
            value = stream if residual == "post" else self.norm(stream, trains)
            value = block(value, trains)
            if residual != "pre":
                value = self.norm(value, trains)
            stream = tape.add(stream, self._before_addition(value))
            del value
        return stream

    def _parallel(self, stream: Value, trains: bool) -> Value:
        value = self.norm(stream, trains)
        first = self._before_addition(self._attention(value, trains))
        if self.form.residual == "parallel_two":
            value = self.norm(stream, trains)
        second = self._before_addition(self._mlp(value, trains))
        del value
        both = self.tape.add(first, second)
        return self.tape.add(both, stream)

    def _before_addition(self, value: Value) -> Value:
        if self.form.residual_dropout:
            value = self.dropout(value)
        if self.form.residual_scale:
            value = self.tape.op((value,), value.shape, value.itemsize)
        return value

    def dropout(self, value: Value) -> Value:
        """Dropout keeps a byte for each value."""
        return self.tape.op((value,), value.shape, value.itemsize, keeps=((value.shape, 1),))

    def norm(self, value: Value, trains: bool) -> Value:
        """Write the family's norm over the last dimension."""
        shape = (value.shape[-1],)
        weight = self.linears.weight(shape, trains=trains)
        if self.form.norm == "layer":
            bias = self.linears.weight(shape, trains=trains or self.structure.trains == "biases")
            return layer_norm(self.tape, value, weight, bias, autocast=self.structure.autocast)
        return rms_norm(self.tape, value, weight, in_fp32=self.form.norm == "rms_fp32")

    # -- attention

    def _attention(self, value: Value, trains: bool) -> Value:
        query, key, states = self._query_key_value(value, trains)
        del value
        query, key = self._rotary(query, "rotary_query"), self._rotary(key, "rotary_key")
        output = attend(self.tape, self.structure, query, key, states, self.mask)
        del query, key, states
        return self.linears.linear(output, self.form.attention_out, "hidden", trains=trains)

    def _query_key_value(self, value: Value, trains: bool) -> tuple[Value, Value, Value]:
        form, tape = self.form, self.tape
        if form.fused_qkv:
            whole = self.linears.linear(value, form.fused_qkv, "query_key_value", trains=trains)
            shapes = [("tokens", name) for name in ("query", "key", "key")]
            if form.slices_qkv:
                query, key, states = (tape.slice(whole, shape) for shape in shapes)
            else:
                query, key, states = tape.split(whole, shapes)
            return query, key, states
        names = form.query_key_value
        query = self.linears.linear(value, names[0], "query", trains=trains)
        if form.query_scale:
            query = tape.op((query,), query.shape, query.itemsize)
        query = self._query_norm(query, "heads", trains)
        key = self._query_norm(
            self.linears.linear(value, names[1], "key", trains=trains), "key_heads", trains
        )
        return query, key, self.linears.linear(value, names[2], "key", trains=trains)

    def _query_norm(self, value: Value, heads: str, trains: bool) -> Value:
        """A norm over queries or keys, where the family has one."""
        if self.form.query_norm == "none":
            return value
        if self.form.query_norm == "whole":
            return self.norm(value, trains)
        shape = value.shape
        viewed = Value(("tokens", heads, "head_dim"), value.itemsize, value.storage, value.node)
        del value
        value = self.norm(viewed, trains)
        del viewed
        return Value(shape, value.itemsize, value.storage, value.node)

    def _rotary(self, value: Value, part: str) -> Value:
        form, tape, given = self.form, self.tape, value.itemsize
        if form.rotary == "none":
            return value
        whole = value
        if form.rotary == "partial":
            value = tape.slice(whole, ("tokens", part))
        turning = 4 if form.rotary_fp32 else self.structure.stream_itemsize
        itemsize = max(given, turning)
        by_cos = tape.op((value,), value.shape, itemsize)
        quarter = ((*value.shape, "half"), given)  # one half, negated
        half = tape.op((value,), value.shape, given, needs=(quarter,))
        by_sin = tape.op((half,), value.shape, itemsize)
        del half, value
        turned = tape.add(by_cos, by_sin)
        del by_cos, by_sin
        if form.rotary == "partial":
            rest = tape.slice(whole, whole.shape)
            return tape.join((turned, rest), whole.shape, itemsize)
        return tape.cast(turned, given) if form.rotary_fp32 else turned

    # -- MLP

    def _mlp(self, value: Value, trains: bool) -> Value:
        tape, form = self.tape, self.form
        if form.mlp == "experts":
            how = self.structure
            return experts(
                tape,
                form,
                self.linears,
                value,
                trains=trains,
                autocast=how.autocast,
                is_fp16=how.is_fp16,
            )
        if form.mlp == "plain":
            up = self.linears.linear(value, form.mlp_up, "inner", trains=trains)
            del value
            product = self._activation(up)
            del up
        elif form.mlp == "fused":
            both = self.linears.linear(value, form.mlp_up, "twice_inner", trains=trains)
            del value
            gate, up = tape.split(both, [("tokens", "inner"), ("tokens", "inner")])
            del both
            active = self._activation(gate)
            product = tape.op((up, active), up.shape, up.itemsize, saves=(up, active))
            del gate, up, active
        else:
            gate = self.linears.linear(value, "gate_proj", "inner", trains=trains)
            active = self._activation(gate)
            del gate
            up = self.linears.linear(value, form.mlp_up, "inner", trains=trains)
            del value
            product = tape.op((active, up), up.shape, up.itemsize, saves=(active, up))
            del active, up
        return self.linears.linear(product, form.mlp_down, "hidden", trains=trains)

    def _activation(self, value: Value) -> Value:
        tape, shape, itemsize = self.tape, value.shape, value.itemsize
        if self.form.activation == "input":
            return tape.op((value,), shape, itemsize, saves=(value,))
        if self.form.activation == "result":
            return tape.op((value,), shape, itemsize, saves_result=True)
        # GPT-2's: half of x, times one plus the tanh of x and some of its cube
        halved = tape.op((value,), shape, itemsize)
        base = tape.cast(value, 4) if self.structure.autocast else value
        cube = tape.op(
            (base,), shape, base.itemsize, saves=(base,), backward_needs=(base.size, base.size)
        )
        del base
        cube = tape.op((cube,), shape, cube.itemsize)
        total = tape.add(value, cube)
        del value, cube
        total = tape.op((total,), shape, total.itemsize)
        curve = tape.op((total,), shape, total.itemsize, saves_result=True)
        del total
        curve = tape.op((curve,), shape, curve.itemsize, passes=True)
        wide = max(itemsize, curve.itemsize)
        if wide > itemsize:  # of a product of two types, the narrower one's gradient is wide first
            halved = tape.slice(halved, shape)
            halved.itemsize = wide
        inputs = (halved, curve)
        return tape.op(inputs, shape, wide, saves=inputs)
