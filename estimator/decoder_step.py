"""One training step of a Llama-like decoder, written on a tape of bytes.

What is written here follows transformers' modeling_llama (RMSNorm, rotary embeddings, scaled
dot-product attention, gated MLP), peft's LoRA, bitsandbytes' 4-bit linears, autocast and
non-reentrant checkpointing, operation by operation.
"""

from __future__ import annotations

from dataclasses import dataclass

from estimator.architecture import Architecture, Linear
from estimator.estimate import Component
from estimator.plan import BYTES_PER_VALUE, FineTunePlan
from estimator.tape import Leaf, Moment, Sizes, Storage, Tape, Value


@dataclass(frozen=True, slots=True)
class StepMoments:
    """The fullest moments of forward and backward, without what lives through both."""

    forward: Moment
    backward: Moment


class DecoderStep:
    """Writes a step's operations on a tape.

    Args:
        plan: Precision, adapter, checkpointing, batch.
        architecture: A Llama-like decoder.
        attention: The kernel, ``flash`` or ``efficient``.
        accumulates: Whether gradients are already there, from an earlier micro-batch.
    """

    def __init__(
        self,
        plan: FineTunePlan,
        architecture: Architecture,
        *,
        attention: str,
        accumulates: bool,
    ) -> None:
        self.plan = plan
        self.arch = architecture
        self.attention = attention
        self.accumulates = accumulates
        self.tape = Tape()
        self.tokens = plan.tokens_per_micro_batch
        self.autocast = plan.autocast_dtype != "none"
        self.weight_itemsize = BYTES_PER_VALUE[plan.weights_dtype]
        self.adapter_itemsize = BYTES_PER_VALUE[plan.adapter.dtype]
        self.stream_itemsize = 4 if plan.prepares_kbit else self.weight_itemsize
        self.trains_all = plan.method == "full"
        self.linears = {linear.name.rpartition(".")[2]: linear for linear in architecture.linears}
        self.norms = {module.name.rpartition(".")[2] for module in architecture.layer}
        self.copies: list[Value] = []
        self.leaves: list[Leaf] = []

    # -- the step

    def moments(self) -> StepMoments:
        """Return the fullest moments of forward and backward.

        Two layers are written down; every further one adds what the second added.
        """
        tape, account = self.tape, self.tape.account
        num_frozen, num_trained = self._num_layers()
        batch = Storage(account, 2 * 8 * self.tokens, "activations")  # ids and labels
        table = self._weight(self.arch.vocab_size * self.arch.hidden_size, uses=self._table_uses())
        stream = self._embed(table)
        rotary = Storage(
            account, 2 * self.tokens_per_row * self.arch.head_dim * self.stream_itemsize
        )
        forward = []
        if num_frozen:
            stream = self._layer(stream, trains=False)
        stream = self._any_layer(stream)
        forward.append(account.cut())
        first_nodes = len(tape.nodes)
        before = dict(account.live)
        repeats = 0
        if num_trained > 1:
            stream = self._any_layer(stream)
            repeats = num_trained - 2
        more = _difference(account.live, before)
        forward.append(account.cut().plus(more, repeats))
        layer_nodes = len(tape.nodes)
        stream = self._norm(stream, self.trains_all)
        logits, loss = self._head(stream, table)
        forward.append(account.cut().plus(more, repeats))
        self.copies.clear()
        outputs = logits if self.plan.keep_outputs else None
        del logits, stream
        account.cut()
        if loss.node:
            loss.node.receive(Storage(account, 4))
        del loss
        tape.backward(layer_nodes)
        after_head = account.cut()
        full = dict(account.live)
        tape.backward(first_nodes)
        in_layer = account.cut()
        less = _difference(full, account.live)
        gradients = less.pop("gradients", 0)
        made: Sizes = {"gradients": -gradients}
        tape.backward()
        backward = [
            after_head.plus(less, repeats),
            in_layer.plus(less, repeats),
            in_layer.plus(made, repeats),
            account.cut().plus(made, repeats),
        ]
        del outputs, batch, rotary
        return StepMoments(_fullest(forward), _fullest(backward))

    @property
    def tokens_per_row(self) -> int:
        """Positions are the same in every row of the batch."""
        return self.plan.seq_len

    def _num_layers(self) -> tuple[int, int]:
        if self.plan.method != "last_layers":
            return 0, self.arch.num_hidden_layers
        trained = min(self.plan.num_trained_layers, self.arch.num_hidden_layers)
        return self.arch.num_hidden_layers - trained, trained

    def _table_uses(self) -> int:
        return 2 if self.arch.tie_word_embeddings else 1

    def _weight(self, count: int, *, trains: bool | None = None, uses: int = 1) -> Value:
        """A weight of the model: counted elsewhere, with a gradient where it is trained."""
        trains = self.trains_all if trains is None else trains
        leaf = self._leaf(uses) if trains else None
        return Value(count, self.stream_itemsize, None, leaf)

    def _leaf(self, uses: int = 1) -> Leaf:
        in_place = uses == 1 or self.autocast
        leaf = Leaf(uses=uses, keeps=not self.accumulates, adds_in_place=in_place)
        self.leaves.append(leaf)
        return leaf

    def _embed(self, table: Value) -> Value:
        tape = self.tape
        count = self.tokens * self.arch.hidden_size
        value = tape.op((table,), count, table.itemsize)
        if self.plan.uses_adapter and self.plan.gradient_checkpointing:
            value.node = Leaf(keeps=False)  # peft: the embeddings' output requires gradients
        return value

    def _head(self, stream: Value, table: Value) -> tuple[Value, Value]:
        """Write the logits and the loss."""
        tape, vocab = self.tape, self.arch.vocab_size
        weight = table if self.arch.tie_word_embeddings else self._weight(table.count)
        logits = self._matmul(stream, weight, vocab, component="logits")
        floats = tape.cast(logits, 4)
        count = floats.count
        log_softmax = tape.op((floats,), count, 4, saves_result=True, component="logits")
        del floats
        loss = tape.op((log_softmax,), 1, 4, saves=(log_softmax,))
        return logits, loss

    # -- one layer

    def _any_layer(self, stream: Value) -> Value:
        trains = self.trains_all or self.plan.method == "last_layers"
        if not self.plan.gradient_checkpointing:
            return self._layer(stream, trains)

        first = True

        def run(value: Value) -> Value:
            nonlocal first
            if first:
                first = False
                return self._layer(value, trains)
            kept, self.copies = self.copies, []  # recomputation casts the weights anew
            result = self._layer(value, trains)
            self.copies = kept
            return result

        return self.tape.checkpoint(run, stream)

    def _layer(self, stream: Value, trains: bool) -> Value:
        tape = self.tape
        value = self._norm(stream, trains)
        value = self._attention(value, trains)
        stream = tape.add(stream, value)
        value = self._norm(stream, trains)
        value = self._mlp(value, trains)
        return tape.add(stream, value)

    def _norm(self, value: Value, trains: bool) -> Value:
        """RMSNorm, computed in 32 bits."""
        tape, itemsize = self.tape, value.itemsize
        count = value.count
        rows = self.tokens
        floats = tape.cast(value, 4)
        square = tape.op((floats,), count, 4, saves=(floats,), backward_needs=8 * count)
        mean = tape.op((square,), rows, 4)
        del square
        root = tape.op((mean,), rows, 4, saves_result=True)
        del mean
        scaled = tape.op((floats, root), count, 4, saves=(floats, root), backward_needs=4 * count)
        del floats, root
        rounded = tape.cast(scaled, itemsize)
        del scaled
        weight = self._weight(self.arch.hidden_size, trains=trains)
        saves = (rounded,) if weight.node else ()
        needs = rounded.size if weight.node else 0
        return tape.op((rounded, weight), count, itemsize, saves=saves, backward_needs=needs)

    def _attention(self, value: Value, trains: bool) -> Value:
        tape, arch = self.tape, self.arch
        query = self._linear(value, "q_proj", trains)
        key = self._linear(value, "k_proj", trains)
        states = self._linear(value, "v_proj", trains)
        del value
        query, key = self._rotary(query), self._rotary(key)
        if self.autocast:
            query, key, states = (tape.cast(one, 2) for one in (query, key, states))
        rows = arch.num_attention_heads * self.tokens
        sums = Storage(tape.account, 4 * rows, "activations")
        output = tape.op(
            (query, key, states),
            query.count,
            query.itemsize,
            saves=(query, key, states),
            saves_result=True,
            backward_needs=self._attention_backward_bytes(query),
        )
        if output.node and tape.nodes and tape.nodes[-1] is output.node:
            output.node.saved.append(sums)
        del query, key, states, sums
        return self._linear(output, "o_proj", trains)

    def _attention_backward_bytes(self, query: Value) -> int:
        """Flash attention's backward: dq summed in 32 bits, row sums, dk and dv per query head."""
        arch, plan = self.arch, self.plan
        rounded = -(-plan.seq_len // 128) * 128
        rows = plan.micro_batch_size * rounded * arch.num_attention_heads
        if self.attention == "efficient":  # row sums only
            return 4 * self.tokens * arch.num_attention_heads
        needs = 4 * rows * (-(-arch.head_dim // 32) * 32) + 4 * rows
        if arch.num_key_value_heads != arch.num_attention_heads:
            needs += 2 * query.size
        return needs

    def _rotary(self, value: Value) -> Value:
        tape = self.tape
        itemsize = max(value.itemsize, self.stream_itemsize)
        by_cos = tape.op((value,), value.count, itemsize)
        half = tape.op((value,), value.count, value.itemsize, needs=value.size // 2)
        by_sin = tape.op((half,), value.count, itemsize)
        del half, value
        return tape.add(by_cos, by_sin)

    def _mlp(self, value: Value, trains: bool) -> Value:
        tape = self.tape
        gate = self._linear(value, "gate_proj", trains)
        active = tape.op((gate,), gate.count, gate.itemsize, saves=(gate,))
        del gate
        up = self._linear(value, "up_proj", trains)
        del value
        product = tape.op((active, up), up.count, up.itemsize, saves=(active, up))
        del active, up
        return self._linear(product, "down_proj", trains)

    # -- linear layers

    def _linear(self, value: Value, name: str, trains: bool) -> Value:
        linear = self.linears[name]
        if self.plan.is_quantized:
            base = self._linear_4bit(value, linear)
        else:
            weight = self._weight(linear.in_features * linear.out_features, trains=trains)
            base = self._matmul(value, weight, linear.out_features)
        return self._adapted(value, base, linear) if self._is_target(name) else base

    def _is_target(self, name: str) -> bool:
        targets = self.plan.adapter.target_modules
        return self.plan.uses_adapter and (targets == "all-linear" or name in targets)

    def _matmul(
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
        whole = count * compute
        result = tape.op(
            (value,),
            self.tokens * linear.out_features,
            compute,
            needs=whole,
            backward_needs=whole,
        )
        return tape.cast(result, itemsize)

    def _adapted(self, value: Value, base: Value, linear: Linear) -> Value:
        """LoRA beside a frozen linear: base + B(A(dropout(x))) * scale."""
        tape, adapter = self.tape, self.plan.adapter
        if not (self.plan.is_quantized and self.autocast):
            value = tape.cast(value, self.adapter_itemsize)
        dropped = value
        if adapter.dropout:
            mask = Storage(tape.account, value.count, "activations")
            dropped = tape.op((value,), value.count, value.itemsize)
            if dropped.node and tape.nodes and tape.nodes[-1] is dropped.node:
                dropped.node.saved.append(mask)
            del mask
        down = self._adapter_weight(linear.in_features)
        up = self._adapter_weight(linear.out_features)
        inner = self._matmul(dropped, down, adapter.r)
        del dropped
        outer = self._matmul(inner, up, linear.out_features)
        del inner
        outer = tape.op((outer,), outer.count, outer.itemsize)  # times alpha / r
        if self.plan.is_quantized and not self.autocast:
            outer = tape.cast(outer, base.itemsize)
        return tape.cast(tape.add(base, outer), base.itemsize)

    def _adapter_weight(self, features: int) -> Value:
        return Value(features * self.plan.adapter.r, self.adapter_itemsize, None, self._leaf())


def _difference(now: Sizes, before: Sizes) -> Sizes:
    return {component: size - before.get(component, 0) for component, size in now.items()}


def _fullest(moments: list[Moment]) -> Moment:
    return max(moments, key=lambda moment: moment.total_bytes)
