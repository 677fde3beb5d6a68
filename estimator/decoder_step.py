"""One training step of a Llama-like decoder, written on a tape of bytes.

What is written here follows transformers' modeling_llama (RMSNorm, rotary embeddings, scaled
dot-product attention, gated MLP), peft's LoRA, bitsandbytes' 4-bit linears, autocast and
non-reentrant checkpointing, operation by operation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from estimator.architecture import Architecture
from estimator.byte_account import Moment, Sizes, Storage
from estimator.plan import FineTunePlan
from estimator.tape import Leaf, Tape, Value
from estimator.tape_linears import Linears


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
        self.tape = Tape()
        self.linears = Linears(plan, architecture, self.tape, accumulates=accumulates)
        self.tokens = plan.tokens_per_micro_batch
        self.autocast = plan.autocast_dtype != "none"
        self.trains_all = plan.method == "full"
        self.norms = {module.name.rpartition(".")[2] for module in architecture.layer}

    # -- the step

    def moments(self) -> StepMoments:
        """Return the fullest moments of forward and backward.

        Two layers are written down; every further one adds what the second added.
        """
        tape, account = self.tape, self.tape.account
        batch = Storage(account, 2 * 8 * self.tokens, "activations")  # ids and labels
        table = self.linears.weight(
            self.arch.vocab_size * self.arch.hidden_size,
            trains=self.trains_all,
            uses=2 if self.arch.tie_word_embeddings else 1,
        )
        embedded = stream = self._embed(table)
        angles = self.plan.seq_len * self.arch.head_dim  # the same in every row of the batch
        rotary = Storage(account, 2 * angles * self.linears.stream_itemsize)
        forward: list[Moment] = []
        groups: list[_Group] = []
        repeated: Sizes = {}
        for trains, count in self._layer_groups():
            group = _Group(repeats=max(count - 2, 0))
            for index in range(min(count, 2)):
                group.starts.append(len(tape.nodes))
                before = dict(account.live)
                stream = self._any_layer(stream, trains)
                if index:
                    added = _difference(account.live, before)
                    repeated = Moment(repeated).plus(added, group.repeats).sizes
                forward.append(account.cut().plus(repeated))
            groups.append(group)
        end = len(tape.nodes)
        stream = self._norm(stream, self.trains_all)
        del embedded
        logits, loss = self._head(stream, table)
        forward.append(account.cut().plus(repeated))
        self.linears.copies.clear()
        outputs = logits.storage if self.plan.keep_outputs else None
        del logits, stream
        account.cut()
        if loss.node:
            loss.node.receive(Storage(account, 4))
        del loss
        backward = self._backward(groups, end)
        del outputs, batch, rotary
        return StepMoments(_fullest(forward), _fullest(backward))

    def _backward(self, groups: list[_Group], end: int) -> list[Moment]:
        """Run everything backward; return the fullest moments from the loss to the embeddings."""
        tape, account = self.tape, self.tape.account
        tape.backward(end)
        moments = [(account.cut(), 0)]  # with the number of entries of `freed` that are done
        freed: list[Sizes] = []
        for group in reversed(groups):
            for index in reversed(range(len(group.starts))):
                before = dict(account.live)
                tape.backward(group.starts[index])
                moment = account.cut()
                moments.append((moment, len(freed)))
                if index:
                    freed.append(_scaled(_difference(before, account.live), group.repeats))
                    moments.append((moment, len(freed)))  # the lowest layer that is like it
        tape.backward()
        moments.append((account.cut(), len(freed)))
        return [_as_repeated(moment, freed, num_done) for moment, num_done in moments]

    def _layer_groups(self) -> list[tuple[bool, int]]:
        """Return runs of equal layers from the bottom: whether they are trained, and how many."""
        count = self.arch.num_hidden_layers
        if self.plan.method != "last_layers":
            return [(self.trains_all, count)]
        trained = self.plan.num_trained_layers
        return [group for group in ((False, count - trained), (True, trained)) if group[1]]

    def _embed(self, table: Value) -> Value:
        tape = self.tape
        count = self.tokens * self.arch.hidden_size
        value = tape.op((table,), count, table.itemsize)
        if self.plan.gradient_checkpointing and value.node is None:
            value.node = Leaf()  # transformers: the embeddings' output then requires gradients
        return value

    def _head(self, stream: Value, table: Value) -> tuple[Value, Value]:
        """Write the logits and the loss."""
        tape, vocab = self.tape, self.arch.vocab_size
        weight = table
        if not self.arch.tie_word_embeddings:
            weight = self.linears.weight(table.count, trains=self.trains_all)
        logits = self.linears.matmul(stream, weight, vocab, component="logits")
        floats = tape.cast(logits, 4)
        count = floats.count
        log_softmax = tape.op((floats,), count, 4, saves_result=True, component="logits")
        del floats
        loss = tape.op((log_softmax,), 1, 4, saves=(log_softmax,))
        return logits, loss

    # -- one layer

    def _any_layer(self, stream: Value, trains: bool) -> Value:
        if not self.plan.gradient_checkpointing:
            return self._layer(stream, trains)

        first = True

        def run(value: Value) -> Value:
            nonlocal first
            if first:
                first = False
                return self._layer(value, trains)
            kept, self.linears.copies = self.linears.copies, []  # weights are cast anew
            result = self._layer(value, trains)
            self.linears.copies = kept
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

    def _norm(self, value: Value, trains: bool, *, width: int = 0) -> Value:
        """RMSNorm over rows of ``width`` (hidden_size where it is not given), in 32 bits."""
        width = width or self.arch.hidden_size
        tape, itemsize = self.tape, value.itemsize
        count = value.count
        rows = count // width
        floats = tape.cast(value, 4)
        square = tape.op((floats,), count, 4, saves=(floats,), backward_needs=8 * count)
        mean = tape.op((square,), rows, 4)
        del square
        root = tape.op((mean,), rows, 4, saves_result=True)
        del mean
        scaled = tape.op((floats, root), count, 4, saves=(floats, root), backward_needs=4 * count)
        del floats, root
        rounded = tape.cast(scaled, itemsize)  # the 32-bit one lives on until the norm returns
        weight = self.linears.weight(width, trains=trains)
        saves = (rounded,) if weight.node else ()
        needs = rounded.size if weight.node else 0
        return tape.op((rounded, weight), count, itemsize, saves=saves, backward_needs=needs)

    def _attention(self, value: Value, trains: bool) -> Value:
        tape, arch = self.tape, self.arch
        query = self._projected(value, "q", trains)
        key = self._projected(value, "k", trains)
        states = self.linears.linear(value, "v_proj", trains=trains)
        del value
        query, key = self._rotary(query), self._rotary(key)
        if self.autocast:
            query, key, states = (tape.cast(one, 2) for one in (query, key, states))
        rows = arch.num_attention_heads * self.tokens
        output = tape.op(
            (query, key, states),
            query.count,
            query.itemsize,
            saves=(query, key, states),
            saves_result=True,
            keeps=4 * rows,
            backward_needs=self._attention_backward_bytes(query),
        )
        del query, key, states
        return self.linears.linear(output, "o_proj", trains=trains)

    def _projected(self, value: Value, letter: str, trains: bool) -> Value:
        """Queries or keys, with a norm over each head where the architecture has one."""
        value = self.linears.linear(value, f"{letter}_proj", trains=trains)
        if f"{letter}_norm" in self.norms:
            return self._norm(value, trains, width=self.arch.head_dim)
        return value

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
        itemsize = max(value.itemsize, self.linears.stream_itemsize)
        by_cos = tape.op((value,), value.count, itemsize)
        half = tape.op((value,), value.count, value.itemsize, needs=value.size // 2)
        by_sin = tape.op((half,), value.count, itemsize)
        del half, value
        return tape.add(by_cos, by_sin)

    def _mlp(self, value: Value, trains: bool) -> Value:
        tape = self.tape
        gate = self.linears.linear(value, "gate_proj", trains=trains)
        active = tape.op((gate,), gate.count, gate.itemsize, saves=(gate,))
        del gate
        up = self.linears.linear(value, "up_proj", trains=trains)
        del value
        product = tape.op((active, up), up.count, up.itemsize, saves=(active, up))
        del active, up
        return self.linears.linear(product, "down_proj", trains=trains)


@dataclass(slots=True)
class _Group:
    """A run of equal layers, of which the first two were written down.

    ``starts`` says how many nodes came before each, ``repeats`` how many layers are like the
    second.
    """

    repeats: int
    starts: list[int] = field(default_factory=list)


def _scaled(sizes: Sizes, times: int) -> Sizes:
    return {component: times * size for component, size in sizes.items()}


def _as_repeated(moment: Moment, freed: list[Sizes], num_done: int) -> Moment:
    """Add what the repeated layers hold: gradients where their backward is done, else the rest."""
    for index, sizes in enumerate(freed):
        kept: Sizes = dict(sizes)
        made: Sizes = {"gradients": -kept.pop("gradients", 0)}
        moment = moment.plus(made if index < num_done else kept)
    return moment


def _difference(now: Sizes, before: Sizes) -> Sizes:
    return {name: now.get(name, 0) - before.get(name, 0) for name in (*now, *before)}


def _fullest(moments: list[Moment]) -> Moment:
    return max(moments, key=lambda moment: moment.total_bytes)
