"""tuneplan data: check, convert."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from commands.shared import AsJson, Force, Overrides, refuse_overwriting, show

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Training data.")

DataFile = Annotated[
    str,
    typer.Argument(metavar="FILE", help="JSONL, JSON, CSV, Parquet, or owner/name on the Hub."),
]


class DataFormat(StrEnum):
    """How rows become examples."""

    auto = "auto"
    chat = "chat"
    prompt_completion = "prompt_completion"
    instruction = "instruction"
    text = "text"


class Target(StrEnum):
    """What data is converted to."""

    openai = "openai"
    jsonl = "jsonl"


FormatOption = Annotated[
    DataFormat | None,
    typer.Option("--format", help="How rows are read; auto looks at their columns."),
]


@app.command()
def check(
    file: DataFile,
    *,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="PLAN", help="Take seq_len and the tokenizer from it."),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option("--validation", metavar="FILE", help="What is held out: look for leaks."),
    ] = None,
    format_: FormatOption = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with training data, and how long its examples are. Status 1: it hurts."""
    from rich.console import Console

    from estimator.plan import load_plan
    from estimator.problems import InputError, Problem
    from reports import terminal_data
    from trainer.data_check import check_data, plan_encoder
    from trainer.examples import open_examples

    if overrides and plan is None:
        raise InputError(Problem("--set", "changes a plan, and none is named", fix="add --plan"))
    chosen = load_plan(plan, overrides or ()) if plan else None
    form = format_.value if format_ else chosen.data.format if chosen else "auto"
    source = open_examples(file, form)
    held_out = open_examples(validation, form) if validation else None
    encoder = plan_encoder(chosen) if chosen else None
    with Console(stderr=True).status("looking at the data") as status:
        report = check_data(
            source,
            plan=chosen,
            encoder=encoder,
            validation=held_out,
            on_progress=lambda rows: status.update(f"looking at the data: {rows:,} rows"),
        )
    show(terminal_data.as_document(report), lambda: terminal_data.report(report), as_json)
    raise typer.Exit(0 if report.is_fine else 1)


@app.command()
def convert(
    file: DataFile,
    *,
    to: Annotated[Target, typer.Option("--to", help="openai: chat JSONL; jsonl: as it is.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to.")],
    format_: FormatOption = None,
    force: Force = False,
) -> None:
    """Write training data anew, as chat JSONL for hosted fine-tuning or as plain JSONL."""
    from reports.units import num_of
    from trainer.data_convert import convert_data
    from trainer.examples import open_examples

    source = open_examples(file, format_.value if format_ else "auto")
    refuse_overwriting(output, force)
    num_examples = convert_data(source, to.value, output)
    typer.echo(f"{output}: {num_of(num_examples, 'example')}")
