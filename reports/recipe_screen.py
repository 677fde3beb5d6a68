"""What a recipe holds and what its target cannot say, as Rich renderables."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from reports.recipe_files import Recipe
from trainer.example_formats import printable


def recipe(made: Recipe, folder: Path) -> RenderableType:
    """Show where a recipe is, how to run it, and what is otherwise than in the plan."""
    lines = [Text(f"{folder}: {made.plan.method} with {made.target.name}", style="bold")]
    lines += [Text(f"  cd {folder}"), *(Text(f"  {command}") for command in made.commands)]
    lines += [Text(printable(note) + ".", style="yellow") for note in made.notes]
    differing = made.mapped.differing
    if differing:
        lines.append(Text("\nOtherwise than in the plan:"))
    for row in differing:
        value = str(row.value).lower() if isinstance(row.value, bool) else row.value
        lines.append(Text(f"  {row.key}: {value}: {row.differs}"))
    lines.append(Text("\nMAPPING.md says how every setting is expressed.", style="dim"))
    return Group(*lines)
