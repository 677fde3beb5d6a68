"""A fine-tune as Rich renderables: what it did, whether it helped, and what to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reports.finetune_facts import facts, measures, notes
from reports.terminal_probe import out_of_memory
from trainer.evaluation_results import Comparison
from trainer.example_formats import printable
from trainer.finetune_results import FineTuneResult
from trainer.runs import Run

_NUM_SAMPLES = 3
_MOST_SHOWN = 300


def outcome(run: Run) -> RenderableType:
    """Show how a fine-tune ended, and what it brought where it brought something."""
    status, result = run.status(), run.result()
    head = Text(f"{run.id}: {status.state.replace('_', ' ')}. {status.reason}".rstrip(), "bold")
    parts: list[RenderableType] = [head]
    if isinstance(result, FineTuneResult) and status.is_final:
        parts.append(finetune(result, run.folder))
    if status.state in ("failed", "stopped") and not status.input_is_wrong:
        parts.append(Text(f"Go on with: tuneplan finetune --resume {run.id}"))
    return Group(*parts)


def finetune(result: FineTuneResult, folder: Path) -> RenderableType:
    """Show what a fine-tune brought.

    Args:
        result: What it found.
        folder: Its run's.
    """
    parts: list[RenderableType] = [_facts([result])]
    if result.comparison:
        parts += ["", Text(result.comparison.sentence, style="bold")]
        parts += [Text(f"Note: {warning}") for warning in result.comparison.warnings]
        parts += [_before_and_after(result.comparison), _samples(result.comparison)]
    parts += [Text(f"Note: {note}") for note in notes(result)]
    if result.out_of_memory:
        parts.append(out_of_memory(result.out_of_memory))
    if result.saved:
        parts.append(Text(f"Saved: the {result.saved}, in {folder / 'model'}"))
    if result.pushed_to:
        parts.append(Text(f"Published: {result.pushed_to}"))
    return Group(*parts)


def side_by_side(results: Sequence[FineTuneResult]) -> RenderableType:
    """Show several fine-tunes in columns."""
    return _facts(results)


def _facts(results: Sequence[FineTuneResult]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    columns = [facts(result) for result in results]
    for name in columns[0]:
        table.add_row(
            Text(name, style="dim"), *(escape(printable(column[name])) for column in columns)
        )
    return table


def _before_and_after(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, sides in measures(comparison).items():
        table.add_row(name, *sides)
    return table


def _samples(comparison: Comparison) -> RenderableType:
    pairs = list(zip(comparison.before.samples, comparison.after.samples, strict=False))
    lines: list[RenderableType] = []
    for before, after in pairs[:_NUM_SAMPLES]:
        lines += [
            Text(f"Asked:    {_short(after.prompt)}", style="bold"),
            Text(f"Wanted:   {_short(after.reference)}"),
            Text(f"Before:   {_short(before.output)}"),
            Text(f"After:    {_short(after.output)}"),
            Text(""),
        ]
    return Group(*lines)


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN]}…"
