"""The terminal's door: each command reads its input, calls the library and shows the result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands import calibration, catalogue, data, finetune, prices, push, runs, saved
from commands.advise import advise
from commands.cost import cost
from commands.learn import learn
from commands.recipe import recipe
from commands.report import report
from commands.shared import (
    AsJson,
    Device,
    MemoryLimit,
    Overrides,
    PlanFile,
    TrustRemoteCode,
    show,
)
from commands.tune import tune
from estimator.problems import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from commands.watch import Outcome

PROJECT = Path(__file__).resolve().parent


app = typer.Typer(
    name="tuneplan",
    help="Decide how to adapt a language model, know what it needs, and prove it here.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tuneplan {version('tuneplan')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Decide how to adapt a language model, know what it needs, and prove it here."""


def estimate(
    plan: PlanFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Trace the real step instead of using the formula.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say how much GPU memory one training step needs, and which GPUs it fits."""
    from rich.console import Group

    from commands.readings import read_calibrated, read_plan, with_outlook
    from estimator.plan import load_plan
    from reports import terminal, terminal_calibration, terminal_fit, terminal_time

    reading = read_plan(load_plan(plan, overrides or ()), by_dry_run=dry_run)
    known = read_calibrated(reading)
    show(
        with_outlook(reading, known),
        lambda: Group(
            terminal.estimate(reading),
            terminal_time.outlook(reading),
            terminal_calibration.beside(known),
            terminal_fit.suggestions(reading),
        ),
        as_json,
    )


def compare(
    plan: PlanFile,
    gpu: Annotated[
        list[str] | None,
        typer.Option("--gpu", metavar="NAME", help="Only these GPUs; may be repeated."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Lay full fine-tuning, LoRA and QLoRA of one plan side by side."""
    from commands.readings import read_methods
    from estimator.gpus import find_gpu
    from estimator.plan import load_plan
    from reports import terminal

    gpus = tuple(find_gpu(name, where=f"--gpu {name}") for name in gpu or ())
    found = read_methods(load_plan(plan, overrides or ()), gpus)
    document = {"estimates": [reading.to_document() for reading in found]}
    show(document, lambda: terminal.comparison(found), as_json)


def fit(
    plan: PlanFile,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help="In place of the plan's GPU.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--no-dry-run", help="Confirm the answers by dry runs.")
    ] = True,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say what fits a GPU, what each change saves, and which GPU is cheapest. Status 1: no fit."""
    from commands.fit import find_fit
    from estimator.gpus import find_gpu
    from estimator.plan import load_plan
    from reports import terminal_fit

    chosen = load_plan(plan, overrides or ())
    if gpu:
        chosen = chosen.changed(gpu=find_gpu(gpu, where=f"--gpu {gpu}").name)
    found = find_fit(chosen, by_dry_run=dry_run)
    show(found.to_document(), lambda: terminal_fit.fit(found), as_json)
    raise typer.Exit(1 if found.fits == "no" else 0)


def probe(
    plan: PlanFile,
    *,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="Train on this file.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=2, max=100_000, help="Optimizer steps.")] = 6,
    device: Annotated[Device, typer.Option("--device", help="Where to run.")] = Device.auto,
    overrides: Overrides = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Run this method instead; repeat it to compare."),
    ] = None,
    memory_limit: MemoryLimit = None,
    find_batch: Annotated[
        bool, typer.Option("--find-batch", help="Find the largest micro-batch that really runs.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune for a few steps here, and lay what it took beside the estimate."""
    from commands.watch import run_probe
    from estimator.compare import under_method
    from estimator.plan import load_plan
    from estimator.validation import validate
    from trainer.results import ProbeRequest

    chosen = load_plan(plan, overrides or ())
    plans = [under_method(chosen, one) for one in method] if method else [chosen]
    requests = [
        validate(
            ProbeRequest,
            {
                "plan": one,
                "data_path": str(data) if data else None,
                "num_steps": steps,
                "device": device.value,
                "memory_limit_gib": memory_limit,
                "trust_remote_code": trust_remote_code,
                "find_batch": find_batch,
            },
            "probe",
        )
        for one in plans
    ]
    outcomes: list[Outcome] = []
    for request in requests:
        outcomes.append(run_probe(request))
        if outcomes[-1].status.state == "stopped":  # whoever stops one wants no other
            break
    documents = [outcome.to_document() for outcome in outcomes]
    show(
        {"probes": documents} if method else documents[0],
        lambda: _outcomes(outcomes),
        as_json,
    )
    for outcome in outcomes:
        if outcome.status.input_is_wrong:
            typer.echo(outcome.status.reason, err=True)
    raise typer.Exit(max(outcome.exit_status for outcome in outcomes))


def _outcomes(outcomes: list[Outcome]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from reports import terminal
    from reports.terminal_probe import ways_on
    from trainer.results import ProbeResult

    found = [(one, one.result) for one in outcomes if isinstance(one.result, ProbeResult)]
    ways = [ways_on(outcome.run, result) for outcome, result in found]
    failures = [Text(outcome.sentence) for outcome in outcomes if outcome.exit_status == 1]
    shown = [terminal.readings([result for _, result in found])] if found else []
    return Group(*shown, *ways, *failures)


def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can do."""
    from reports import terminal_runs
    from trainer.machine import describe_machine

    machine = describe_machine()
    show(machine.model_dump(mode="json"), lambda: terminal_runs.machine(machine), as_json)


def app_(
    port: Annotated[int | None, typer.Option("--port", help="Port on this machine.")] = None,
) -> None:
    """Open tuneplan in the browser."""
    from trainer.runs import runs_folder

    command = [sys.executable, "-m", "streamlit", "run", str(PROJECT / "app.py")]
    if port:
        command += ["--server.port", str(port)]
    # The server starts in the project's folder, where .streamlit/config.toml is.
    environment = os.environ | {"TUNEPLAN_HOME": str(runs_folder().parent.absolute())}
    raise typer.Exit(subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode)


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE")] = Path(
        "out/demo-report.html"
    ),
) -> None:
    """Do the whole job once, on the bundled examples: no GPU and no downloads needed."""
    from commands.demo import run_demo

    if not run_demo(PROJECT / "examples", output):
        raise typer.Exit(1)


for _command in (  # in the order in which --help lists them: as the work goes
    advise,
    estimate,
    compare,
    fit,
    cost,
    probe,
    finetune.finetune,
    tune,
    saved.generate,
    saved.merge,
    push.push,
    report,
    recipe,
    learn,
    catalogue.models,
    catalogue.gpus,
    doctor,
    demo,
):
    app.command()(_command)
app.command("app")(app_)
for _group in (data, runs, calibration, prices):
    app.add_typer(_group.app, name=_group.__name__.rpartition(".")[2])


def main() -> None:
    """Run the command line: exit status 2 and one line per problem where the input is wrong."""
    try:
        app()
    except InputError as error:
        typer.echo("\n".join(map(str, error.problems)), err=True)
        sys.exit(2)
    except RuntimeError as error:
        from trainer.launch import WorkerFailed

        if not isinstance(error, WorkerFailed):
            raise
        typer.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
