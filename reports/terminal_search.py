"""A search as Rich renderables: its trials, the best plan, and how sure that is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reports.units import duration, number
from trainer.requests import command_of
from trainer.runs import Run
from trainer.search_results import (
    ALL_DONE,
    STOPPED_BY_HAND,
    SearchKey,
    SearchRequest,
    SearchResult,
    Trial,
)

_STATE_STYLES = {"completed": "green", "pruned": "dim", "failed": "red", "out_of_memory": "yellow"}
_MOST_REASONS = 5


def outcome(run: Run) -> RenderableType:
    """Show how a search ended, and what it found."""
    status, result = run.status(), run.result()
    head = Text(f"{run.id}: {status.state.replace('_', ' ')}.", "bold")
    if status.reason:
        head.append(f" {status.reason}")
    parts: list[RenderableType] = [head]
    if isinstance(result, SearchResult) and result.trials:
        parts.append(search(result, run))
    all_done = isinstance(result, SearchResult) and result.ended == ALL_DONE
    if status.state in ("failed", "stopped") and not status.input_is_wrong and not all_done:
        parts.append(Text(f"Go on with: tuneplan tune --resume {run.id}"))
    return Group(*parts)


def search(result: SearchResult, run: Run) -> RenderableType:
    """Show what a search has found.

    Args:
        result: What it found, so far or in the end.
        run: Its own run.
    """
    parts: list[RenderableType] = [_trials(result), *_reasons(result.trials)]
    if result.importance:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in result.importance.items())
        parts.append(Text(f"What made trials good (PED-ANOVA, of few trials): {shares}."))
    parts += [Text(f"Note: {one}") for one in result.notes]
    if result.best_plan:
        parts.append(Text(result.sentence, style="bold"))
        parts += ["", *_best(result, run)]
    return Group(*parts)


def _trials(result: SearchResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("trial", justify="right", no_wrap=True)
    keys: list[SearchKey] = [one.key for one in result.searched]
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right", no_wrap=True)
    for heading in ("lowest loss", "took"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for trial in result.ranked():
        is_best = trial.number == result.best
        table.add_row(
            str(trial.number),
            *(f"{trial.parameters[key]:g}" for key in keys),
            number(trial.validation_loss, 4),
            duration(trial.seconds),
            Text(
                "best" if is_best else trial.state.replace("_", " "),
                style=_STATE_STYLES[trial.state],
            ),
            style="bold" if is_best else "",
        )
    return table


def _reasons(trials: Sequence[Trial]) -> list[RenderableType]:
    failed = [
        one
        for one in trials
        if one.state in ("failed", "out_of_memory") or one.reason == STOPPED_BY_HAND
    ]
    lines: list[RenderableType] = [
        Text(f"Trial {one.number}: {one.reason} (tuneplan runs show {one.run})")
        for one in failed[:_MOST_REASONS]
    ]
    if len(failed) > _MOST_REASONS:
        lines.append(Text(f"... and {len(failed) - _MOST_REASONS} more; --json has them all."))
    return lines


def _best(result: SearchResult, run: Run) -> list[RenderableType]:
    best = result.best_trial()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for key, (before, after) in result.changes.items():
        table.add_row(Text(key, style="dim"), escape(f"{_shown(before)} → {_shown(after)}"))
    path = run.folder / "best-plan.yaml"
    lines: list[RenderableType] = [Text("The best plan, against the given one", style="bold")]
    lines += [table] if result.changes else [Text("No change: the given plan is the best tried.")]
    lines.append(Text(f"In: {path}"))
    if best and best.run:
        lines.append(Text(f"Trained already: run {best.run}"))
        lines.append(Text(f"  tuneplan generate {best.run} --prompt ..."))
    request = run.request()
    if isinstance(request, SearchRequest):
        again = Text(f"  {_command(request, path, result)}")
        again.no_wrap, again.overflow = True, "ignore"  # broken over lines it could not be pasted
        lines += [Text("Or train it anew:"), again]
    return lines


def _command(request: SearchRequest, path: Path, result: SearchResult) -> str:
    again = request.finetune(result.best_plan or request.plan)
    return shlex.join(command_of(again, str(path)))


def _shown(value: Any) -> str:
    if value is None:
        return "the method's default"
    return f"{value:g}" if isinstance(value, float) else str(value)
