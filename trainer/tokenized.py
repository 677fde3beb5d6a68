"""A source of examples as rows of tokens on disk, made once and counted. Without torch."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
from pydantic import ValidationError

from estimator.documents import write_atomic
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer.chat_template import TemplateProblem
from trainer.data_summary import DataSummary
from trainer.example_formats import Example
from trainer.examples import MAX_NAMED_PROBLEMS, ExampleSource, Found
from trainer.split import Side, Split
from trainer.token_rows import RowWriter, TokenRows
from trainer.tokens import Encoder, Tokens, encode, encode_all, encoder_of

_VERSION = 1  # raise it when the same examples would give other rows
_SUMMARY = "summary.json"
_EXAMPLES_AT_ONCE = 512
CUT_TO_NOTHING = "nothing of the answer lies within seq_len"
NOTHING_LEARNED = "nothing to learn: a single token"


@dataclass(frozen=True, slots=True)
class TokenizedData:
    """Rows to train on, rows held out, and how they came about.

    Attributes:
        train: At least one row.
        validation: None where nothing is held out.
        summary: What became of the examples.
    """

    train: TokenRows
    validation: TokenRows | None
    summary: DataSummary


def tokenize_data(
    source: ExampleSource,
    tokenizer: Any,
    plan: FineTunePlan,
    folder: Path,
    *,
    validation: ExampleSource | None = None,
    limit: int | None = None,
) -> TokenizedData:
    """Return a source's examples as rows of tokens, kept in ``folder``.

    Rows that are there already, from the same content, tokenizer and shape, are used again.

    Args:
        source: What to train on; ``schedule.validation_fraction`` of it is held out.
        tokenizer: Hugging Face's, a fast one.
        plan: Tells ``seq_len``, whether rows are padded, and the split.
        folder: Where the rows are kept; made if it is not there.
        validation: What to hold out instead; all of ``source`` is then trained on.
        limit: Read no more than so many examples: enough for a probe.

    Raises:
        InputError: Rows are broken, the chat template refuses some, nothing is left to learn, or
            the folder cannot be written.
    """
    encoder = encoder_of(tokenizer)
    key = _key(source, encoder, plan, validation, limit)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if found := _kept(folder, key):
            return found
        (folder / _SUMMARY).unlink(missing_ok=True)
        summary = _write(source, encoder, plan, folder, validation, limit)
        document = {"key": key, "summary": summary.to_document()}
        write_atomic(folder / _SUMMARY, json.dumps(document, indent=2) + "\n")
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise InputError(Problem(str(folder), what, fix="make room, or name another")) from error
    return _opened(folder, summary)


def _key(
    source: ExampleSource,
    encoder: Encoder,
    plan: FineTunePlan,
    validation: ExampleSource | None,
    limit: int | None,
) -> str:
    """What rows depend on, as one hash."""
    parts = {
        "version": _VERSION,
        "source": [source.fingerprint(), source.columns.format, source.columns.names],
        "validation": validation and [validation.fingerprint(), validation.columns.names],
        "tokenizer": encoder.fingerprint(),
        "shape": [plan.seq_len, plan.padded],
        "split": [plan.schedule.seed, plan.schedule.validation_fraction],
        "limit": limit,
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _kept(folder: Path, key: str) -> TokenizedData | None:
    try:
        document = json.loads((folder / _SUMMARY).read_bytes())
        if document["key"] != key:
            return None
        return _opened(folder, DataSummary.model_validate(document["summary"]))
    except (OSError, ValueError, KeyError, TypeError, ValidationError, pyarrow.ArrowException):
        return None


def _opened(folder: Path, summary: DataSummary) -> TokenizedData:
    has_validation = summary.num_validation_rows > 0
    return TokenizedData(
        train=TokenRows(_rows_path(folder, "train")),
        validation=TokenRows(_rows_path(folder, "validation")) if has_validation else None,
        summary=summary,
    )


def _rows_path(folder: Path, side: Side) -> Path:
    return folder / f"{side}.arrow"


def _unfinished_path(folder: Path, side: Side) -> Path:
    return folder / f".{side}.arrow.unfinished"


@dataclass(slots=True)
class _Counts:
    num_examples: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    num_tokens: int = 0
    num_truncated: int = 0
    num_tokens_cut: int = 0
    longest: int = 0
    longest_at: str = ""


def _write(
    source: ExampleSource,
    encoder: Encoder,
    plan: FineTunePlan,
    folder: Path,
    validation: ExampleSource | None,
    limit: int | None,
) -> DataSummary:
    split = Split.of(plan.schedule)
    if validation is not None:
        split.boundary = 0
    counts, writers = _pass(source, encoder, plan, folder, validation, limit, split)
    if mended := split.mended():  # a small set in which one side got nothing
        counts, writers = _pass(source, encoder, plan, folder, validation, limit, mended)
    for side in writers:  # only whole files take the place of those that may still be read
        _unfinished_path(folder, side).replace(_rows_path(folder, side))
    if not writers["train"].num_rows:
        what = f"every prompt is longer than {plan.seq_len} tokens: nothing is left to learn"
        raise InputError(Problem("seq_len", what, fix="raise seq_len, or shorten the prompts"))
    return DataSummary(
        name=source.name,
        format=source.format,
        columns=source.columns.names,
        ignored_columns=source.ignored_columns,
        template=encoder.template_name if source.format in ("chat", "instruction") else None,
        num_examples=counts.num_examples.total(),
        num_train=counts.num_examples["train"],
        num_validation=counts.num_examples["validation"],
        num_train_rows=writers["train"].num_rows,
        num_validation_rows=writers["validation"].num_rows,
        num_tokens=counts.num_tokens,
        num_learned_tokens=sum(writer.num_learned_tokens for writer in writers.values()),
        num_truncated=counts.num_truncated,
        num_tokens_cut=counts.num_tokens_cut
        + sum(writer.num_tokens_cut for writer in writers.values()),
        left_out=dict(counts.left_out),
        longest_example_tokens=counts.longest,
        longest_example=counts.longest_at,
        fingerprint=source.fingerprint(),
        validation_name=validation.name if validation else None,
        validation_fingerprint=validation.fingerprint() if validation else None,
    )


def _pass(
    source: ExampleSource,
    encoder: Encoder,
    plan: FineTunePlan,
    folder: Path,
    validation: ExampleSource | None,
    limit: int | None,
    split: Split,
) -> tuple[_Counts, dict[Side, RowWriter]]:
    """Read everything once and write both sides' rows."""
    counts = _Counts()
    filler = encoder.eos_token_id or 0
    sides: tuple[Side, ...] = ("train", "validation")
    writers: dict[Side, RowWriter] = {
        side: RowWriter(
            _unfinished_path(folder, side), plan.seq_len, padded=plan.padded, filler=filler
        )
        for side in sides
    }
    try:
        for found, example, tokens in _encoded(source.located(limit), encoder):
            side = split.side(example)
            _add(found, tokens, plan, writers[side], counts)
            counts.num_examples[side] += 1
        if validation is not None:
            for found, _, tokens in _encoded(validation.located(limit), encoder):
                _add(found, tokens, plan, writers["validation"], counts)
                counts.num_examples["validation"] += 1
    finally:
        for writer in writers.values():
            writer.close()
    return counts, writers


def _add(
    found: Found, tokens: Tokens, plan: FineTunePlan, writer: RowWriter, counts: _Counts
) -> None:
    length = len(tokens.input_ids)
    counts.num_tokens += length
    if length > counts.longest:
        counts.longest, counts.longest_at = length, found.where
    kept = tokens
    if plan.padded and length > plan.seq_len:
        kept = tokens.cut(plan.seq_len)
        counts.num_truncated += 1
        counts.num_tokens_cut += length - plan.seq_len
    if kept.is_learned:
        writer.add(kept)
        return
    counts.num_tokens_cut += len(kept.input_ids)
    counts.left_out[CUT_TO_NOTHING if tokens.is_learned else NOTHING_LEARNED] += 1


def _encoded(
    located: Iterable[tuple[Found, Example]], encoder: Encoder
) -> Iterator[tuple[Found, Example, Tokens]]:
    """Encode examples in groups; those that the chat template refuses are named at the end."""
    refused: list[Problem] = []
    num_refused = 0
    located = iter(located)
    while group := list(islice(located, _EXAMPLES_AT_ONCE)):
        try:
            tokens = encode_all([example for _, example in group], encoder)
            yield from ((*one, its) for one, its in zip(group, tokens, strict=True))
            continue
        except TemplateProblem:
            pass
        for found, example in group:  # one by one, to find out which
            try:
                yield found, example, encode(example, encoder)
            except TemplateProblem as problem:
                num_refused += 1
                if num_refused <= MAX_NAMED_PROBLEMS:
                    fix = "correct the conversation, or use a model with another template"
                    refused.append(Problem(found.where, str(problem), fix=fix))
    if num_refused > len(refused):
        what = f"{num_refused - len(refused):,} more conversations are refused"
        refused.append(Problem("data", what))
    if refused:
        raise InputError(refused)
