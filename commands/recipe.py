"""tuneplan recipe: the plan as a project for another trainer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from commands.shared import AsJson, Overrides, PlanFile, show
from estimator.problems import InputError, Problem


class RecipeTarget(StrEnum):
    """Whom a recipe can be for."""

    trl = "trl"
    axolotl = "axolotl"
    llama_factory = "llama-factory"
    unsloth = "unsloth"
    skypilot = "skypilot"


class SkyTrainer(StrEnum):
    """What a SkyPilot task can run."""

    trl = "trl"
    axolotl = "axolotl"
    llama_factory = "llama-factory"
    unsloth = "unsloth"
    tuneplan = "tuneplan"


def recipe(
    plan: PlanFile,
    *,
    target: Annotated[RecipeTarget, typer.Option("--for", help="The trainer, or skypilot.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="A new or empty folder.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="Train on this, in place of the plan's data: a file, or a dataset of the Hub.",
        ),
    ] = None,
    trainer: Annotated[
        SkyTrainer | None, typer.Option("--trainer", help="What a SkyPilot task runs; trl.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the plan as a project for another trainer, every setting accounted for."""
    from estimator.plan import load_plan
    from reports import recipe_screen
    from reports.recipe import build_recipe, check_folder, write_recipe
    from reports.recipe_skypilot import build_skypilot

    chosen = load_plan(plan, overrides or ())
    if trainer and target is not RecipeTarget.skypilot:
        what = f"{trainer} goes with --for skypilot alone"
        raise InputError(Problem("--trainer", what, fix=f"leave it out, or --for {trainer}"))
    check_folder(output)
    if target is RecipeTarget.skypilot:
        made = build_skypilot(chosen, trainer or SkyTrainer.trl, data)
    else:
        made = build_recipe(chosen, target, data)
    write_recipe(made, output)
    show(made.to_document(output), lambda: recipe_screen.recipe(made, output), as_json)
