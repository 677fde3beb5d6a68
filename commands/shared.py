"""What several commands share: their options, and how a result reaches stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from estimator.problems import InputError, Problem

if TYPE_CHECKING:
    from rich.console import RenderableType

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file, YAML or JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the plan; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its start, or latest.")]
MemoryLimit = Annotated[
    float | None,
    typer.Option(
        "--memory-limit", metavar="GIB", min=0.01, help="Pretend the device is this small."
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Let the model's own Python code run, this once."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it is there already.")]


class Device(StrEnum):
    """Where a probe runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def refuse_overwriting(output: Path, force: bool) -> None:
    """Refuse to replace a file that nobody said may go.

    Raises:
        InputError: It is there already.
    """
    if output.exists() and not force:
        what = "is there already, and nothing is overwritten"
        raise InputError(Problem(str(output), what, fix="name another file, or add --force"))


def show(document: dict[str, Any], render: Callable[[], RenderableType], as_json: bool) -> None:
    """Print a result: as one JSON object, or for people."""
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    # Not cropped: a command to be pasted stays whole, however narrow the screen.
    Console(highlight=False).print(render(), crop=False)
