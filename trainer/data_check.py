"""A look at training data before it is trained on: a few bytes of memory a row, and no torch."""

from __future__ import annotations

import re
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from estimator.plan import FineTunePlan, Schedule
from trainer.chat_template import TemplateProblem
from trainer.data_findings import MAX_NAMED, Notes
from trainer.data_lengths import BYTES_PER_TOKEN, as_numpy, num_longer, token_counts
from trainer.data_report import DataReport
from trainer.example_formats import Example, RowProblem, Turn, printable
from trainer.example_rows import place
from trainer.examples import ExampleSource, Found, content_digest
from trainer.hosted import HostedCheck, hosted_rules
from trainer.split import Split
from trainer.tokens import Encoder, encode, text_of

if TYPE_CHECKING:
    pass

_DEFAULT_EPOCHS = FineTunePlan.model_fields["epochs"].default
_AT_ONCE = 1024
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class _Kept:
    """What is remembered of each example of a source, to be compared with others: 16 bytes."""

    def __init__(self, source: ExampleSource) -> None:
        self.digests, self.lengths, self._numbers = array("Q"), array("I"), array("I")
        self._source = source
        self._starts: list[int] = []  # the first example of each file
        self._path: Path | None = None

    def add(self, found: Found, digest: int, length: int = 0) -> None:
        """Remember an example."""
        while self._path is not found.path:  # a file without examples begins where the next does
            self._path = self._source.files[len(self._starts)][0]
            self._starts.append(len(self.digests))
        self.digests.append(digest)
        self.lengths.append(length)
        self._numbers.append(found.number)

    def where(self, index: int) -> str:
        """Where the example of this index is."""
        file = bisect_right(self._starts, index) - 1
        return place(*self._source.files[file], self._numbers[index])


def check_data(
    source: ExampleSource,
    *,
    plan: FineTunePlan | None = None,
    encoder: Encoder | None = None,
    validation: ExampleSource | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> DataReport:
    """Look at all rows of a source once, and say what would hurt training.

    Memory is about 40 bytes a row: two rows are taken for the same where 64 bits of their hashes
    are, and ten million different ones hold such a pair with a chance of 3e-6.

    Args:
        source: What is to be trained on.
        plan: Tells ``seq_len``, padding, epochs and the split; without it lengths are only shown.
        encoder: Counts tokens; without it they are estimated.
        validation: What is held out, to be compared with what is trained on.
        on_progress: Called with the number of rows, now and then.

    Raises:
        InputError: A file as a whole cannot be read.
    """
    started = time.perf_counter()
    notes, hosted = Notes(), HostedCheck(source)
    held_out = None if validation is None else _held_out(validation)
    kept, num_rows = _Kept(source), 0
    look = _Look(plan, encoder, notes)
    for group in _groups(source):
        examples: list[tuple[Found, Example]] = []
        for found in group:
            num_rows += 1
            hosted.look(found)
            if isinstance(found.value, RowProblem):
                notes.add("broken", found.where, found.value.what)
            else:
                examples.append((found, found.value))
        look.at(examples, kept)
        on_progress(num_rows)
    _mark_duplicates(kept, notes)
    if held_out is not None:
        num_validation = len(held_out.digests)
        _mark_leaks(held_out, kept, notes)
    else:
        num_validation = _num_held_out(plan.schedule if plan else Schedule(), kept)
    num_examples = len(kept.digests)
    return DataReport(
        name=source.name,
        format=source.format,
        columns=source.columns.names,
        ignored_columns=tuple(map(printable, source.ignored_columns)),
        num_rows=num_rows,
        num_examples=num_examples,
        num_train=num_examples - (num_validation if validation is None else 0),
        num_validation=num_validation,
        validation_name=validation.name if validation else None,
        tokens=token_counts(kept.lengths, kept.where, source, encoder),
        seq_len=plan.seq_len if plan else None,
        epochs=plan.epochs if plan else _DEFAULT_EPOCHS,
        findings=notes.findings(),
        hosted=hosted.verdict(num_longer(kept.lengths, hosted_rules().max_tokens_per_example)),
        fingerprint=source.fingerprint(),
        seconds=time.perf_counter() - started,
    )


def _groups(source: ExampleSource) -> Iterator[list[Found]]:
    rows = source.rows()
    while group := list(islice(rows, _AT_ONCE)):
        yield group


class _Look:
    """What is looked for in each example."""

    def __init__(self, plan: FineTunePlan | None, encoder: Encoder | None, notes: Notes) -> None:
        self._plan, self._encoder, self._notes = plan, encoder, notes
        self._control_token = _control_tokens(encoder)

    def at(self, group: Sequence[tuple[Found, Example]], kept: _Kept) -> None:
        """Look at a group of examples, and keep what is compared later."""
        lengths = self._lengths(group)
        for (found, example), length in zip(group, lengths, strict=True):
            kept.add(found, content_digest(example), length)
            if wrong := _wrong_roles(example.turns):
                self._notes.add("roles", found.where, wrong)
            text = _text_of(example)
            # str.isprintable is quick, and true of most lines; newlines and tabs are then looked at
            if not text.isprintable() and (control := _CONTROL.search(text)):
                self._notes.add("control_characters", found.where, repr(control[0]))
            if self._control_token and (token := self._control_token.search(text)):
                self._notes.add("control_tokens", found.where, token[0])
            if self._plan and length > self._plan.seq_len:
                self._judge_length(found, example, length, self._plan)

    def _lengths(self, group: Sequence[tuple[Found, Example]]) -> list[int]:
        if self._encoder is None:
            return [
                -(-len(_text_of(example).encode(errors="replace")) // BYTES_PER_TOKEN)
                for _, example in group
            ]
        texts = []
        for found, example in group:
            try:
                texts.append(text_of(example, self._encoder))
            except TemplateProblem as problem:
                self._notes.add("refused_by_template", found.where, str(problem))
                texts.append(_text_of(example))
        return self._encoder.count(texts, is_chat=bool(group and group[0][1].turns))

    def _judge_length(
        self, found: Found, example: Example, length: int, plan: FineTunePlan
    ) -> None:
        said = f"{length:,} tokens"
        if self._encoder is not None and plan.padded:
            try:
                tokens = encode(example, self._encoder)
            except TemplateProblem:
                return  # named already
            if not tokens.cut(plan.seq_len).is_learned:
                self._notes.add("nothing_learned", found.where, said)
                return
        if plan.padded:  # packed, an example goes on in the next row
            self._notes.add("too_long", found.where, said)


def _control_tokens(encoder: Encoder | None) -> re.Pattern[str] | None:
    """A pattern of the tokenizer's special tokens that no ordinary text holds."""
    if encoder is None:
        return None
    added = encoder.backend.get_added_tokens_decoder().values()
    names = [token.content for token in added if token.special and len(token.content) > 2]
    return re.compile("|".join(map(re.escape, names))) if names else None


def _text_of(example: Example) -> str:
    if example.turns:
        return "\n".join(turn.content for turn in example.turns)
    return example.prompt + example.completion


def _wrong_roles(turns: Sequence[Turn]) -> str:
    """What is out of order in a conversation, or nothing."""
    roles = [turn.role for turn in turns]
    if "system" in roles[1:]:
        return "a system message that is not the first"
    spoken = [role for role in roles if role != "system"]
    if spoken and spoken[0] != "user":
        return f"the {spoken[0]} speaks first"
    for one, other in pairwise(spoken):
        if one == other and one != "tool":
            return f"two messages of the {one} follow each other"
    return ""


def _held_out(validation: ExampleSource) -> _Kept:
    """The digests of a validation source's examples.

    Raises:
        InputError: It has broken rows.
    """
    kept = _Kept(validation)
    for found, example in validation.located():
        kept.add(found, content_digest(example))
    return kept


def _num_held_out(schedule: Schedule, kept: _Kept) -> int:
    """How many examples a fine-tune would hold out."""
    split = Split.of(schedule)
    held_out = sum(split.side_of(digest) == "validation" for digest in kept.digests)
    if mended := split.mended():
        return sum(mended.side_of(digest) == "validation" for digest in kept.digests)
    return held_out


def _mark_duplicates(kept: _Kept, notes: Notes) -> None:
    import numpy

    digests = as_numpy(kept.digests)
    order = numpy.argsort(digests, kind="stable")
    ordered = digests[order]
    later = numpy.sort(order[1:][ordered[1:] == ordered[:-1]])
    for index in later[:MAX_NAMED].tolist():
        first = order[numpy.searchsorted(ordered, digests[index])]
        notes.add("duplicate", kept.where(index), f"as {kept.where(int(first))}")
    if len(later):
        notes.num["duplicate"] = len(later)


def _mark_leaks(held_out: _Kept, kept: _Kept, notes: Notes) -> None:
    import numpy

    is_leaked = numpy.isin(as_numpy(held_out.digests), as_numpy(kept.digests))
    for index in numpy.flatnonzero(is_leaked).tolist():
        notes.add("leak", held_out.where(index))


def plan_encoder(plan: FineTunePlan) -> Encoder | None:
    """Return the encoder of a plan's model where its tokenizer is on this machine, or None.

    Raises:
        InputError: The tokenizer's files cannot be read.
    """
    from estimator.hub import cached_model
    from estimator.models import resolve_model
    from trainer.tokens import read_encoder

    folder = resolve_model(plan.model).folder or cached_model(plan.model)
    return read_encoder(folder) if folder else None
