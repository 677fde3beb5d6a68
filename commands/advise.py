"""tuneplan advise: from a file at once, without one by asking."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.shared import AsJson, show
from estimator.problems import InputError, Problem

if TYPE_CHECKING:
    from advisor.answers import Answers
    from advisor.data_signals import Suggestion
    from estimator.plan import FineTunePlan


def advise(
    answers: Annotated[
        Path | None, typer.Argument(metavar="[ANSWERS]", help="Answers, or a scenario file.")
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FILE", help="Say what these examples suggest, too."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Write the answers to this file.")
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option("--resume/--fresh", help="Go on with kept answers, or start anew."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which strategy fits your case, and why. Without a file it asks."""
    given, plan = _given(answers, save=save, resume=resume)

    from advisor.recommend import recommend

    found = recommend(given, plan)
    if data is not None:
        found = found.model_copy(update={"suggestions": _suggestions(data, given)})

    def render():
        from reports.terminal_advice import advice

        return advice(found)

    show(found.to_document(), render, as_json)


def _given(
    path: Path | None, *, save: Path | None, resume: bool | None
) -> tuple[Answers, FineTunePlan | None]:
    """Return the answers, and the plan of a scenario that has one."""
    if path is not None:
        from advisor.scenario import load_answers_and_plan

        if resume is not None:
            where = "--resume" if resume else "--fresh"
            what = "goes with questions, and a file of answers asks none"
            raise InputError(Problem(where, what, fix=f"leave out {where}, or {path}"))

        answers, plan = load_answers_and_plan(path)
    else:
        from commands.ask import ask

        answers, plan = ask(save=save, resume=resume), None
    if save is not None:
        from estimator.documents import to_yaml, write_out

        write_out(save, to_yaml(dict(answers)))
        typer.echo(f"The answers are in {save}: tuneplan advise {save}", err=True)
    return answers, plan


def _suggestions(path: str, answers: Answers) -> tuple[Suggestion, ...]:
    """Return what a file's examples suggest; a row may hold the model's own ``model_output``."""
    from advisor.data_signals import Example, suggest
    from trainer.examples import open_examples

    def read():
        for found, example in open_examples(path).located():
            output = (found.raw or {}).get("model_output")
            prompt, completion = example.prompt, example.completion
            if example.turns:
                *before, last = example.turns
                prompt = "\n".join(turn.content for turn in before if turn.role != "system")
                completion = last.content
            yield Example(prompt, completion, output if isinstance(output, str) else None)

    return suggest(read(), answers)
