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

    from trainer.results import ProbeResult

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file, YAML or JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the plan; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its start, or latest.")]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Let the model's own Python code run, this once."),
]


class Device(StrEnum):
    """Where a probe runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def needed_result(name: str) -> ProbeResult:
    """Return what a run found, where nothing can be done without it.

    Raises:
        InputError: There is no such run, or it has found nothing (yet).
    """
    from trainer.results import ProbeResult
    from trainer.runs import find_run

    run = find_run(name)
    result = run.result()
    if result is not None and not isinstance(result, ProbeResult):
        what = f"is a {result.kind}, and a report is about probes"
        raise InputError(Problem(f"run {run.id}", what, fix="leave it out, or name a probe"))
    if result is None:
        status = run.status()
        what = f"is {status.state} and has no result"
        fix = "leave it out, or name another run" if status.is_final else "wait for its end"
        raise InputError(Problem(f"run {run.id}", what, fix=fix))
    return result


def show(document: dict[str, Any], render: Callable[[], RenderableType], as_json: bool) -> None:
    """Print a result: as one JSON object, or for people."""
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    # Not cropped: a command to be pasted stays whole, however narrow the screen.
    Console(highlight=False).print(render(), crop=False)
