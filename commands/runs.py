"""tuneplan runs: list, show, stop, compare."""

from __future__ import annotations

from typing import Annotated

import typer

from commands.shared import AsJson, RunName, show
from estimator.problems import InputError, Problem

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Runs on this machine.")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List runs, newest first."""
    from reports import terminal_runs
    from trainer.runs import list_runs

    found = list_runs()
    documents = [{"id": run.id, **run.status().model_dump(mode="json")} for run in found]
    show({"runs": documents}, lambda: terminal_runs.runs(found), as_json)


@app.command("show")
def show_(run: RunName, as_json: AsJson = False) -> None:
    """Show what a run was asked, how it goes and what it found."""
    from commands.watch import Outcome
    from reports import terminal_runs
    from trainer.runs import find_run

    found = find_run(run)
    outcome = Outcome.of(found).to_document()
    asked = {"request": found.request().to_document(), "metrics": found.metrics()}
    show(outcome | asked, lambda: terminal_runs.run(found), as_json)


@app.command()
def stop(
    run: RunName,
    now: Annotated[
        bool, typer.Option("--now", help="End it by force; a checkpoint is what is left of it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Stop a run at the end of its step; a probe by force if it does not listen."""
    from rich.text import Text

    from trainer import launch
    from trainer.runs import find_run

    found = find_run(run)
    was_over = found.status().is_final
    status = launch.stop(found, now=now)
    document = {"id": found.id, **status.model_dump(mode="json")}
    sentence = f"{found.id}: {'already ' if was_over else ''}{status.state}. {status.reason}"
    if not status.is_final:
        where = f"still at: {status.activity}" if status.is_ours else f"on {status.host}"
        sentence += f"It was asked to stop; its worker is {where}."
        if status.is_ours:
            sentence += f" `tuneplan runs stop {found.id} --now` ends it by force."
    show(document, lambda: Text(sentence.rstrip()), as_json)
    if not status.is_final:
        raise typer.Exit(1)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN", help="Two runs or more.")],
    as_json: AsJson = False,
) -> None:
    """Lay several runs side by side: what differs, and what each took."""
    from commands.watch import Outcome
    from reports import terminal_runs
    from trainer.runs import find_run

    if len(runs) < 2:
        what, fix = "one run alone has nothing to compare with", "name another, `latest` for one"
        raise InputError(Problem("runs compare", what, "two runs or more", fix))
    found = [find_run(name) for name in runs]
    differences = terminal_runs.plan_differences([one.request().plan for one in found])
    outcomes = [Outcome.of(one).to_document() for one in found]
    document = {"differences": differences, "runs": outcomes}
    show(document, lambda: terminal_runs.side_by_side(found, differences), as_json)
