"""A fine-tune as Rich renderables: what it did, whether it helped, and what to do with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reports.terminal import out_of_memory
from reports.units import count, duration, gib, number
from trainer.evaluation_results import Comparison
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
    parts += [Text(f"Note: {note}") for note in (*_data_notes(result), *result.notes)]
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
    rows = {
        "method": [one.plan.method for one in results],
        "data": [_data(one) for one in results],
        "steps": [f"{one.num_steps} of {one.total_steps}: {one.ended}" for one in results],
        "learning rate": [f"{one.learning_rate:g}" for one in results],
        "training loss": [f"{number(one.first_loss)} → {number(one.last_loss)}" for one in results],
        "validation loss": [_validation(one) for one in results],
        "per step": [duration(one.step_seconds_median) for one in results],
        "tokens/s": [number(one.tokens_per_second, 0) for one in results],
        "peak allocated": [gib(one.peak_allocated_bytes) for one in results],
        "on": [one.device_name for one in results],
        "took": [duration(one.seconds) for one in results],
    }
    for name, cells in rows.items():
        table.add_row(Text(name, style="dim"), *map(escape, cells))
    return table


def _data(result: FineTuneResult) -> str:
    data = result.data
    return f"{data.name}: {count(data.num_train)} to train, {count(data.num_validation)} held out"


def _data_notes(result: FineTuneResult) -> Iterator[str]:
    """What became of the examples that are not trained on whole."""
    data = result.data
    if data.num_truncated:
        yield (
            f"{count(data.num_truncated)} examples are longer than seq_len "
            f"({data.longest_example}: {count(data.longest_example_tokens)} tokens) and were cut; "
            f"{count(data.num_tokens_cut)} tokens are lost"
        )
    for reason, number_left_out in data.left_out.items():
        yield f"{count(number_left_out)} examples were left out: {reason}"


def _validation(result: FineTuneResult) -> str:
    if not result.validations:
        return "nothing held out"
    best = min(result.validations, key=lambda one: one.loss)
    first, last = result.validations[0], result.validations[-1]
    return f"{number(first.loss)} → {number(last.loss)}, lowest {number(best.loss)} at {best.step}"


def _before_and_after(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    sides = comparison.before, comparison.after
    measures: list[tuple[str, list[float | None], int]] = [
        ("validation loss", [one.validation_loss for one in sides], 3),
        ("validation perplexity", [one.perplexity for one in sides], 2),
        ("exact match", [one.exact_match for one in sides], 2),
        ("ROUGE-L", [one.rouge_l for one in sides], 3),
        ("perplexity of general text", [one.general_perplexity for one in sides], 2),
    ]
    for name, values, digits in measures:
        if any(value is not None for value in values):
            table.add_row(name, *(number(value, digits) for value in values))
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
    line = " ".join(text.split())
    return line if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN]}…"
