"""Explanations on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from advisor.learn import Topic


def topic(found: Topic) -> RenderableType:
    """Show one explanation, what is often got wrong, and its sources."""
    parts: list[RenderableType] = [Text(found.title, style="bold")]
    for heading, text in (
        ("What it is", found.what),
        ("When it pays", found.pays),
        ("A common mistake", found.mistake),
    ):
        parts += ["", Text(heading, style="bold"), Text(text)]
    parts += ["", Text("Sources", style="bold")]
    for source in found.sources:
        parts += [Text(f"- {source.name}"), Padding(Text(source.url), (0, 0, 0, 2))]
    if found.see:
        parts += ["", Text(f"See also: tuneplan learn {' | '.join(found.see)}", style="dim")]
    return Group(*parts)


def listing(found: Sequence[Topic]) -> RenderableType:
    """Show what is explained."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    for one in found:
        table.add_row(one.id, one.title)
    return Group(Text("tuneplan learn TOPIC", style="bold"), table)
