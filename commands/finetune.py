"""tuneplan finetune: the whole fine-tune, watched to its end, and taken up again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.shared import AsJson, Device, MemoryLimit, Overrides, TrustRemoteCode, show
from estimator.problems import InputError, Problem

if TYPE_CHECKING:
    from estimator.plan import FineTunePlan
    from trainer.runs import Run


def finetune(
    plan: Annotated[
        Path | None, typer.Argument(metavar="[PLAN]", help="A plan file; not with --resume.")
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="Train on this, in place of the plan's data: a file, or a dataset of the Hub.",
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option("--validation", metavar="FILE", help="Hold this out, not a part of the data."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Take up a run that was ended.")
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option("--push-to-hub", metavar="ID", help="Publish it there at the end, privately."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Publish it for everybody.")] = False,
    device: Annotated[Device, typer.Option("--device", help="Where to run.")] = Device.auto,
    overrides: Overrides = None,
    memory_limit: MemoryLimit = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune on your data: checkpoints, validation, what it changed, and a model to keep."""
    from commands.watch import resume_run, start_run
    from reports import terminal_finetune

    if resume:
        run = _ended_run(resume, plan, overrides, data)
        outcome = resume_run(run)
    else:
        outcome = start_run(
            _request(
                plan,
                overrides,
                data_path=data,
                validation_path=validation,
                device=device.value,
                memory_limit_gib=memory_limit,
                trust_remote_code=trust_remote_code,
                push_to_hub=push_to_hub,
                public=public,
            )
        )
    if outcome.status.input_is_wrong:
        typer.echo(outcome.status.reason, err=True)
        raise typer.Exit(2)
    show(outcome.to_document(), lambda: terminal_finetune.outcome(outcome.run), as_json)
    raise typer.Exit(outcome.exit_status)


def _request(plan: Path | None, overrides: list[str] | None, **beside: Any) -> Any:
    from estimator.plan import load_plan
    from estimator.validation import validate
    from trainer.finetune_results import FineTuneRequest

    if plan is None:
        fix = "name a plan file, or a run: --resume RUN"
        raise InputError(Problem("finetune", "there is no plan", fix=fix))
    chosen = load_plan(plan, overrides or ())
    return validate(FineTuneRequest, {"plan": chosen, **beside}, "finetune")


def _ended_run(name: str, plan: Path | None, overrides: list[str] | None, data: str | None) -> Run:
    """Return the run to take up, which keeps its own plan and data.

    Raises:
        InputError: A plan or data beside it say something else.
    """
    from estimator.plan import load_plan
    from trainer.requests import anywhere
    from trainer.runs import find_run

    run = find_run(name)
    request = run.request()
    problems: list[Problem] = []
    given = request.model_copy(update={"data_path": data})
    if plan is not None:
        given = anywhere(given.model_copy(update={"plan": load_plan(plan, overrides or ())}))
        problems += [
            Problem(f"{plan}: {key}", f"is {theirs!r}, and the run has {ours!r}", fix=_FIX)
            for key, ours, theirs in _differences(request.plan, given.plan)
        ]
    elif overrides:
        problems.append(Problem("--set", "changes the plan of a run that has begun", fix=_FIX))
    if data is not None and anywhere(given).data_path != request.data_path:
        problems.append(Problem("--data", f"the run has {request.data_path!r}", fix=_FIX))
    if problems:
        raise InputError(problems)
    return run


_FIX = "leave it out, or start a new run without --resume"


def _differences(ours: FineTunePlan, theirs: FineTunePlan) -> list[tuple[str, Any, Any]]:
    """The keys in which two plans differ."""
    left, right = ours.to_document(), theirs.to_document()
    return [(key, left[key], right[key]) for key in left if left[key] != right[key]]
