"""What a probe found beside its memory, as Rich renderables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reports.differences import differences, length_note
from reports.probe_facts import commands, facts, holders
from reports.units import gib
from reports.words import makes_it_fit, method_name, what_was_lacking
from trainer.results import OutOfMemory, ProbeResult
from trainer.runs import Run


def details(results: Sequence[ProbeResult]) -> RenderableType:
    """Show each probe's steps, times and whole run, and why its estimates differ."""
    parts: list[RenderableType] = []
    for result in results:
        if len(results) > 1:
            parts.append(Text(method_name(result.plan.method), style="bold"))
        parts.append(_rows(facts(result)))
        parts += [Text(note) for note in (length_note(result),) if note]
        parts += _why(result)
    return Group(*parts)


def _rows(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _why(result: ProbeResult) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for one in differences(result):
        first, *others = one.reasons
        lines.append(Text(first, style="bold" if others else ""))
        lines.append(_rows([("-", other) for other in others]))
    return lines


def out_of_memory(result: OutOfMemory) -> RenderableType:
    """Show what was asked, what was there, who else is there, and what would make it fit."""
    lines = [what_was_lacking(result)]
    lines += [text for text in (holders(result.holders),) if text]
    none = "By the estimate, no change is enough."
    lines.append(makes_it_fit(len(result.changes)) if result.changes else none)
    for change in result.changes:
        lines.append(f"  --set {change.override}  (peak {gib(change.peak_allocated_bytes)})")
        if change.text:
            lines.append(f"    {change.text}; its price: {change.price}")
    return Text("\n".join(lines), style="yellow")


def ways_on(run: Run, result: ProbeResult) -> RenderableType:
    """Show the commands that probe again with each change that fits, ready to be pasted."""
    # One line each, however long: a wrapped command cannot be pasted.
    lines = [Text(f"  {one}", overflow="ignore", no_wrap=True) for one in commands(run, result)]
    if not lines:
        return Text("")
    title = "To probe with it:" if len(lines) == 1 else "To probe with one of them:"
    return Group("", Text(title, style="bold"), *lines)
