"""A plan as a ready-to-run project for another trainer: its files, and what they cannot say."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from estimator.catalogue import find_bundled_model
from estimator.documents import is_there
from estimator.models import resolve_model
from estimator.plan import TRAINS_WEIGHTS, FineTunePlan
from estimator.problems import InputError, Problem
from reports.recipe_data import RecipeData, find_data, write_data
from reports.recipe_files import Recipe, files_of
from reports.recipe_mapping import Target, load_target, map_plan
from trainer.learning_rates import LEARNING_RATES
from trainer.pretrained import check_weights

TORCH_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

_LAST_SHARE = 0.99
"""Where an evaluation each so many epochs would lie past the end: at the end, but for rounding."""


def build_recipe(
    plan: FineTunePlan,
    target_name: str,
    data_path: str | None = None,
    *,
    model_name: str | None = None,
) -> Recipe:
    """Return a plan as a project for another trainer.

    Args:
        plan: What to train.
        target_name: One of ``recipe_mapping.TRAINERS``.
        data_path: What to train on, in place of the plan's data: a file, or a Hub dataset.
        model_name: What the model is called where the project runs, if not as here.

    Raises:
        InputError: The target has not what the plan needs, or the model or data cannot be used.
    """
    target = load_target(target_name)
    problems = target.refusals(plan)
    if problems:
        raise InputError(problems)
    data = find_data(data_path or plan.data.path, plan.data.format)
    facts = facts_of(plan, target, data)
    if model_name:
        facts["model"] = model_name
    recipe = Recipe(
        plan,
        target,
        map_plan(plan, target, facts),
        data,
        notes=list(_notes(plan, target, data)),
        data_style=target.data_style,
    )
    recipe.files = dict(files_of(recipe))
    return recipe


def facts_of(plan: FineTunePlan, target: Target, data: RecipeData) -> dict[str, Any]:
    """Return what mappings need to know beside the plan itself."""
    schedule = plan.schedule
    evaluations = schedule.evaluations_per_epoch * plan.epochs
    needs_layers = target.id == "axolotl" and plan.method == "last_layers"
    trains_weights = plan.method in TRAINS_WEIGHTS
    stored = plan.weights_dtype if trains_weights else plan.adapter.dtype
    return {
        "model": usable_model(plan.model),
        "dtypes": TORCH_NAMES,
        "learning_rate": schedule.learning_rate or LEARNING_RATES[plan.method],
        "evaluation_share": min(round(1 / evaluations, 6), _LAST_SHARE),
        "whole": lambda value: int(value) if value == int(value) else value,
        "trains_weights": trains_weights,
        "is_pure_bf16": stored == plan.weights_dtype == "bf16",
        "is_hub_data": bool(data.hub),
        "last_layer_patterns": list(_last_layer_patterns(plan)) if needs_layers else [],
    }


def usable_model(name: str) -> str:
    """The Hub's id, or where the folder is.

    Raises:
        InputError: A local model has no weights or no tokenizer.
    """
    if not is_there(Path(name).expanduser()) and find_bundled_model(name) is None:
        return name
    facts = resolve_model(name)
    check_weights(facts)
    return str(facts.folder.resolve()) if facts.folder else facts.name


def _last_layer_patterns(plan: FineTunePlan) -> Iterator[str]:
    """Axolotl's patterns for the parameters of the last layers, whatever holds the layers."""
    config = resolve_model(plan.model).config
    num_layers = config.get("num_hidden_layers") or config["n_layer"]
    for index in range(max(0, num_layers - plan.num_trained_layers), num_layers):
        yield f"^[a-z_.]+.{index}."  # Axolotl reads a period as a period


def placeholder_note(plan: FineTunePlan, folder: str) -> str:
    """Return where data is to be put, in the columns that docs/recipes.md lists."""
    files = [f"{folder}/train.jsonl"]
    if plan.schedule.validation_fraction:
        files.append(f"{folder}/validation.jsonl")
    where = " and ".join(files)
    return f"There is no data yet: put examples into {where}, or make it again with --data FILE"


def _notes(plan: FineTunePlan, target: Target, data: RecipeData) -> Iterator[str]:
    if data.is_placeholder:
        yield placeholder_note(plan, "data")
    if data.hub:
        columns = {"chat": "messages", "prompt_completion": "prompt and completion"}
        wanted = columns.get(data.kind, "text")
        yield (
            f"{data.hub} is read from the Hub as it is: it needs the columns {wanted}; "
            f"otherwise `tuneplan data convert {data.hub} --to jsonl -o data.jsonl`, and --data"
        )
    if data.has_unlearned and target.data_style != "axolotl":
        yield f"Answers with the weight 0 are learned all the same: {target.name} has no such mark"
    if data.kind == "chat" and target.data_style == "trl":
        yield (
            "Conversations with several answers need a chat template that marks them; TRL brings "
            "one for common models and stops for others"
        )
    if target.id == "llama-factory" and data.kind == "prompt_completion":
        yield "LLaMA-Factory's empty template writes no end of sequence after a completion"
    if plan.parallel.strategy.startswith("zero"):
        yield "ZeRO needs `pip install deepspeed` besides; no version of it was checked"
    if plan.attention == "flash_attention_2" and target.id != "unsloth":
        yield "flash_attention_2 needs `pip install flash-attn` besides; no version was checked"


def check_folder(folder: Path) -> None:
    """Refuse a folder that something is in already.

    Raises:
        InputError: It is a file, or not empty.
    """
    fix = "name a new or empty folder"
    try:
        if folder.is_dir():
            if any(folder.iterdir()):
                raise InputError(Problem(f"-o {folder}", "is not empty", fix=fix))
        elif is_there(folder) or folder.is_symlink():
            raise InputError(Problem(f"-o {folder}", "is a file", fix=fix))
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise InputError(Problem(f"-o {folder}", what, fix=fix)) from error


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write a recipe's files and data into a new or empty folder: all of them, or none.

    Raises:
        InputError: The folder is not empty, or it cannot be written.
    """
    check_folder(folder)
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    try:
        unfinished.mkdir(parents=True)
        for name, text in recipe.files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        if recipe.data.source is not None:
            place = unfinished / recipe.data_folder
            place.mkdir(exist_ok=True)
            write_data(recipe.data, recipe.data_style, recipe.plan.schedule, place)
        unfinished.rename(folder)  # over an empty folder, but over nothing else
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        fix = "name a new folder that can be written"
        raise InputError(Problem(f"-o {folder}", what, fix=fix)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
