"""tuneplan tune: search for better settings, each trial a fine-tune of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.shared import AsJson, Device, MemoryLimit, Overrides, TrustRemoteCode, show
from estimator.problems import InputError, Problem


def tune(
    plan: Annotated[
        Path | None, typer.Argument(metavar="[PLAN]", help="A plan file; not with --resume.")
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FILE", help="Train on this, in place of the plan's data."),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option("--validation", metavar="FILE", help="Hold this out, not a part of the data."),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, max=10_000, help="Fine-tunes to try; 10 if left out."),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="KEY=RANGE",
            help="learning_rate=1e-5..1e-3, adapter.r=4,8,16, epochs=1..4; one value keeps it so.",
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option("--hours", min=0.001, help="Begin no trial after so many hours of them."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, help="Of what is tried; the plan's own where it is left out."
        ),
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Write the best plan there.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Change PLAN to the best; it is kept as PLAN.bak.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Take up a search that was ended.")
    ] = None,
    device: Annotated[Device, typer.Option("--device", help="Where to run.")] = Device.auto,
    overrides: Overrides = None,
    memory_limit: MemoryLimit = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Search for the learning rate, rank and epochs with the lowest validation loss."""
    from commands.watch import resume_run, start_run
    from reports import terminal_search

    if resume:
        given = [plan, data, validation, trials, search, hours, seed, write, in_place, overrides]
        outcome = resume_run(_ended_search(resume, has_more=any(given)))
    else:
        _check_places(plan, overrides, write, in_place=in_place)
        outcome = start_run(
            _request(
                plan,
                overrides,
                search,
                seed=seed,
                num_trials=trials or 10,
                data_path=data,
                validation_path=validation,
                timeout_hours=hours,
                device=device.value,
                memory_limit_gib=memory_limit,
                trust_remote_code=trust_remote_code,
                write_to=str((plan if in_place and plan else write or Path()).absolute())
                if in_place or write
                else None,
                in_place=in_place,
            )
        )
    if outcome.status.input_is_wrong:
        typer.echo(outcome.status.reason, err=True)
        raise typer.Exit(2)
    show(outcome.to_document(), lambda: terminal_search.outcome(outcome.run), as_json)
    raise typer.Exit(outcome.exit_status)


def _check_places(
    plan: Path | None, overrides: list[str] | None, write: Path | None, *, in_place: bool
) -> None:
    problems = []
    if plan is None:
        fix = "name a plan file, or a run: --resume RUN"
        problems.append(Problem("tune", "there is no plan", fix=fix))
    if in_place and write:
        problems.append(Problem("--in-place", "and --write are two places", fix="take one of them"))
    if in_place and overrides:
        what = "changes the plan file, which --set is not in"
        problems.append(
            Problem("--in-place", what, fix="write --set into the plan, or use --write")
        )
    if problems:
        raise InputError(problems)


def _request(
    plan: Path | None,
    overrides: list[str] | None,
    asked: list[str] | None,
    *,
    seed: int | None,
    **beside: Any,
) -> Any:
    from estimator.plan import load_plan
    from estimator.validation import validate
    from trainer.search_results import SearchRequest
    from trainer.search_space import search_space

    chosen = load_plan(plan or Path(), overrides or ())
    document = {
        "plan": chosen,
        "searched": search_space(chosen, asked or ()),
        "seed": chosen.schedule.seed % 2**31 if seed is None else seed,
        **beside,
    }
    return validate(SearchRequest, document, "tune")


def _ended_search(name: str, *, has_more: bool) -> Any:
    """Return the search to take up, which keeps all that it was asked for.

    Raises:
        InputError: It is no search, or something else is asked for beside it.
    """
    from trainer.runs import find_run
    from trainer.search_results import SearchRequest

    run = find_run(name)
    request = run.request()
    if not isinstance(request, SearchRequest):
        fix = f"tuneplan finetune --resume {run.id}" if request.kind == "finetune" else ""
        raise InputError(Problem(f"run {run.id}", f"is a {request.kind}", "a search", fix))
    if has_more:
        what = "the search keeps its plan, data and settings"
        raise InputError(Problem("--resume", what, fix="leave out everything else, or start anew"))
    return run
