"""One training step of a decoder, written on a tape.

What is written here and in :mod:`estimator.decoder_layer` follows transformers' modeling files,
peft's adapters, bitsandbytes' linears, autocast and non-reentrant checkpointing, operation by
operation. Two layers of each kind are written down: every further one adds what the second did.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from estimator.byte_account import Amounts, Storage, difference, plus, times
from estimator.decoder_layer import DecoderLayer
from estimator.structure import Structure
from estimator.tape import Leaf, Tape, Value
from estimator.tape_attention import mask_before
from estimator.tape_linears import Linears

_GIVEN = ("given_tokens", "hidden")
_IDS = (("given_tokens",), 8)
_STREAM = ("tokens", "hidden")
_BATCH = ("ids", "labels", "mask")


@dataclass(frozen=True, slots=True)
class StepMoments:
    """The moments of forward and backward that may be the fullest."""

    forward: list[Amounts]
    backward: list[Amounts]


@dataclass(slots=True)
class _Group:
    """A run of equal layers, of which the first two were written down.

    ``starts`` says how many nodes came before each, ``repeats`` names how many layers are like
    the second.
    """

    repeats: str
    starts: list[int] = field(default_factory=list)


class DecoderStep:
    """Writes a step's operations on a tape."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.tape = Tape()
        self.linears = Linears(structure, self.tape)
        self.layer = DecoderLayer(structure, self.tape, self.linears)
        self.trains_all = structure.trains == "all"
        self.input: Value | None = None

    def moments(self) -> StepMoments:
        """Return the moments of forward and backward, without what lives through both."""
        tape, account = self.tape, self.tape.account
        batch = [Storage(account, _IDS, "activations") for _ in _BATCH[: 2 + self.structure.masked]]
        uses = 2 if self.structure.tied else 1
        table = self.linears.weight(("vocab", "hidden"), trains=self.trains_all, uses=uses)
        embedded = self._embed(table)  # the model's own variables hold these until it returns
        stream = embedded[-1]
        angle = (("seq", "head_dim"), self.structure.stream_itemsize)  # the same in every row
        rotary = [Storage(account, angle) for _ in ("cos", "sin")]
        masks = [mask_before(tape, self.structure) for _ in range(self.structure.form.num_masks)]
        self.layer.mask = masks[0]
        forward: list[Amounts] = []
        groups: list[_Group] = []
        repeated: Amounts = {}
        held: Amounts = {}
        for index, (trains, several) in enumerate(self.structure.groups):
            group = _Group(repeats=f"repeats{index}")
            for is_second in (False, True)[: 1 + several]:
                group.starts.append(len(tape.nodes))
                before, num_held = dict(account.live), len(tape.held)
                stream = self._any_layer(stream, trains)
                if is_second:
                    held = plus(held, times(_amounts(tape.held[num_held:]), group.repeats))
                    added = difference(account.live, before)
                    repeated = plus(repeated, times(added, group.repeats))
                forward += [plus(moment, repeated) for moment in account.cut()]
            groups.append(group)
        end = len(tape.nodes)
        stream = self.layer.norm(stream, self.trains_all)
        del embedded
        if not self.structure.checkpointing:  # else the layers to be run again hold it
            masks = []
            self.layer.mask = None
        logits, loss = self._head(stream, table)
        forward += [plus(moment, repeated) for moment in account.cut()]
        self.linears.copies.clear()
        outputs = logits.storage if self.structure.keep_outputs else None
        del logits, stream
        account.cut()
        if loss.node:
            loss.node.receive(Storage(account, ((), 4)))
        del loss
        backward = [plus(moment, held) for moment in self._backward(groups, end)]
        del outputs, batch, rotary, masks
        self.input = None
        return StepMoments(forward, backward)

    def _backward(self, groups: list[_Group], end: int) -> list[Amounts]:
        """Run everything backward; return the moments from the loss to the embeddings."""
        tape, account = self.tape, self.tape.account
        tape.backward(end)
        moments = [(moment, 0) for moment in account.cut()]  # with how many of `freed` are done
        freed: list[Amounts] = []
        for group in reversed(groups):
            for index in reversed(range(len(group.starts))):
                before = dict(account.live)
                tape.backward(group.starts[index])
                cut = account.cut()
                moments += [(moment, len(freed)) for moment in cut]
                if index:
                    freed.append(times(difference(before, account.live), group.repeats))
                    moments += [(moment, len(freed)) for moment in cut]  # the lowest one like it
        tape.backward()
        moments += [(moment, len(freed)) for moment in account.cut()]
        tape.held.clear()
        return [_as_repeated(moment, freed, num_done) for moment, num_done in moments]

    def _embed(self, table: Value) -> list[Value]:
        """Write the embeddings; the last of what is returned is the layers' input."""
        tape, form = self.tape, self.structure.form
        is_prompt = self.structure.adapter == "prompt_tuning"
        words = tape.op((table,), _GIVEN if is_prompt else _STREAM, table.itemsize)
        if form.embedding_scale == "within":
            words = tape.op((words,), _STREAM, words.itemsize)
        if self.structure.checkpointing and words.node is None:
            words.node = Leaf()  # transformers: the embeddings' output then requires gradients,
            self.input = words  # and as a leaf of the graph it lives as long
        if form.embedding_scale == "after":
            words = tape.op((words,), _STREAM, words.itemsize)
        if is_prompt:
            words = self._after_prompt(words)
        values = [words]
        if form.learned_positions:
            weight = self.linears.weight(("positions", "hidden"), trains=self.trains_all)
            shape = _STREAM if form.learned_positions == "each" else ("seq", "hidden")
            values.append(tape.op((weight,), shape, weight.itemsize))
            values.append(tape.add(words, values[-1]))
        if form.embedding_dropout:
            values[-1] = self.layer.dropout(values[-1])
        return values

    def _after_prompt(self, words: Value) -> Value:
        """peft: the same learned tokens in front of every example."""
        shape = ("batch", "virtual_tokens", "hidden")
        itemsize = self.structure.adapter_itemsize
        weight = self.linears.weight(shape[1:], trains=True, itemsize=itemsize)
        prompts = self.tape.op((weight,), shape, itemsize)
        prompts = self.tape.cast(prompts, words.itemsize)
        return self.tape.join((prompts, words), _STREAM, words.itemsize)

    def _head(self, stream: Value, table: Value) -> tuple[Value, Value]:
        """Write the logits and the loss."""
        tape, weight, form = self.tape, table, self.structure.form
        if not self.structure.tied:
            weight = self.linears.weight(("vocab", "hidden"), trains=self.trains_all)
        logits = self.linears.matmul(stream, weight, "vocab", component="logits")
        if form.logits_scale:
            logits = self._on_logits(logits)
        if form.capped_logits:
            logits = self._on_logits(logits)
            logits = self._on_logits(logits, saves_result=True)
            logits = self._on_logits(logits)
        floats = tape.cast(logits, 4)
        log_softmax = self._on_logits(floats, saves_result=True)
        del floats
        loss = tape.op((log_softmax,), (), 4, saves=(log_softmax,))
        return logits, loss

    def _on_logits(self, value: Value, *, saves_result: bool = False) -> Value:
        shape, size = value.shape, value.itemsize
        return self.tape.op((value,), shape, size, saves_result=saves_result, component="logits")

    def _any_layer(self, stream: Value, trains: bool) -> Value:
        if not self.structure.checkpointing:
            return self.layer.write(stream, trains)

        first = True

        def run(value: Value) -> Value:
            nonlocal first
            if first:
                first = False
                return self.layer.write(value, trains)
            kept, self.linears.copies = self.linears.copies, []  # weights are cast anew
            result = self.layer.write(value, trains)
            self.linears.copies = kept
            return result

        return self.tape.checkpoint(run, stream)


def _amounts(storages: list[Storage]) -> Amounts:
    amounts: Amounts = {}
    for one in {id(storage): storage for storage in storages}.values():
        amounts = plus(amounts, {(one.component, one.size, ""): 1})
    return amounts


def _as_repeated(moment: Amounts, freed: list[Amounts], num_done: int) -> Amounts:
    """Add what the repeated layers hold: gradients where their backward is done, else the rest."""
    for index, amounts in enumerate(freed):
        if index < num_done:
            changes = {key: -count for key, count in amounts.items() if count < 0}
        else:
            changes = {key: count for key, count in amounts.items() if count > 0}
        moment = plus(moment, changes)
    return moment
