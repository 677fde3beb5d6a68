"""What was found in training data, as Rich renderables, control characters written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reports.units import duration, num_of
from trainer.data_report import DataReport, Finding, TokenCounts
from trainer.example_formats import printable

_BAR_CELLS = 40
_NUM_NAMED = 10


def as_document(found: DataReport) -> dict[str, Any]:
    """Return the report as plain JSON values, with what follows from it."""
    return found.to_document() | {
        "fine": found.is_fine,
        "training_tokens": found.training_tokens,
        "set": list(found.plan_words),
    }


def report(found: DataReport) -> RenderableType:
    """Show what was found: counts, lengths, what hurts, and what a plan needs to know."""
    return Group(*_parts(found))


def _parts(found: DataReport) -> Iterator[RenderableType]:
    columns = ", ".join(found.columns)
    yield _line(f"{found.name}: {num_of(found.num_examples, 'example')}", style="bold")
    ignored = f"; not read: {', '.join(found.ignored_columns)}" if found.ignored_columns else ""
    yield _line(f"format {found.format}, from {columns}{ignored}")
    held_out = f"in {found.validation_name}" if found.validation_name else "held out"
    yield _line(f"{found.num_train:,} to train on, {found.num_validation:,} {held_out}")
    if found.tokens:
        yield from _lengths(found, found.tokens)
    yield Text("")
    if not found.findings:
        yield Text("Nothing was found that would hurt training.", style="green")
    for finding in found.findings:
        yield from _finding(finding)
    yield Text("")
    yield from _hosted(found)
    if found.tokens:
        yield _line(
            f"Cost basis: {found.tokens.total:,} tokens x {found.epochs:g} epochs = "
            f"{found.training_tokens:,} training tokens"
        )
        if found.num_validation and not found.validation_name:
            held_out = f"a fine-tune here holds out {found.num_validation:,}"
            yield _line(f"  of all examples, as a host bills them; {held_out}", style="dim")
        words = " ".join(f"--set {word}" for word in found.plan_words)
        yield Text(f"For a plan: {words}")
    rows = num_of(found.num_rows, "row")
    yield Text(f"looked at {rows} in {duration(found.seconds)}", style="dim")


def _lengths(found: DataReport, tokens: TokenCounts) -> Iterator[RenderableType]:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("tokens per example")
    table.add_column("examples", justify="right")
    table.add_column("")
    most = max(bar.num_examples for bar in tokens.histogram)
    for bar in tokens.histogram:
        cells = -(-bar.num_examples * _BAR_CELLS // most)  # rounded up: few is not none
        table.add_row(f"to {bar.max_tokens:,}", f"{bar.num_examples:,}", "█" * cells)
    yield table
    yield _line(
        f"mean {tokens.mean:,.1f}, median {tokens.median:,.0f}, 95 % to {tokens.p95:,.0f}, "
        f"longest {tokens.longest:,} ({tokens.longest_at})"
    )
    seq_len = f"; seq_len is {found.seq_len:,}" if found.seq_len else ""
    yield _line(f"{tokens.how}{seq_len}", style="dim")


def _finding(finding: Finding) -> Iterator[RenderableType]:
    style = "bold red" if finding.hurts else "bold"
    yield _line(f"{finding.num:,} {finding.what}: {finding.fix}", style=style)
    for where, what in finding.rows[:_NUM_NAMED]:
        yield _line(f"  {where}{': ' if what else ''}{what}")
    if finding.num > _NUM_NAMED:
        yield Text(f"  and {finding.num - min(_NUM_NAMED, len(finding.rows)):,} more")


def _hosted(found: DataReport) -> Iterator[RenderableType]:
    if found.hosted.valid:
        yield Text("Hosted fine-tuning (OpenAI's rules) would take this file.")
        return
    yield Text("Hosted fine-tuning (OpenAI's rules) would not take this file as it is:")
    for reason in found.hosted.reasons:
        yield _line(f"  {reason}")
    if found.format != "text":
        yield Text("For chat JSONL:")
        command = _line(f"  tuneplan data convert {found.name} --to openai -o FILE")
        command.no_wrap, command.overflow = True, "ignore"  # broken it could not be pasted
        yield command


def _line(text: str, style: str = "") -> Text:
    """A line in which control characters are written out, so that they do nothing."""
    return Text(printable(text), style=style)
