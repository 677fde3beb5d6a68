"""tuneplan report: the whole decision as one file."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """What a report is written as."""

    html = "html"
    md = "md"
    csv = "csv"
    json = "json"


def report(
    scenario: Annotated[Path, typer.Argument(metavar="SCENARIO", help="A scenario file.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to.")],
    form: Annotated[Format, typer.Option("--format", help="What kind of file.")] = Format.html,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="RUN", help="Include what this run found; may be repeated."),
    ] = None,
) -> None:
    """Write the whole decision as one file: advice, needs, costs, and what runs measured."""
    from advisor.scenario import load_scenario
    from estimator.documents import write_out
    from reports.build import build_report
    from reports.measured_runs import read_runs
    from reports.render import render
    from trainer.runs import find_run

    chosen = load_scenario(scenario)
    runs = read_runs([find_run(name) for name in run or ()])
    found = build_report(chosen, runs, today=datetime.now(tz=UTC).date())
    write_out(output, render(found, form.value))
    typer.echo(str(output))
