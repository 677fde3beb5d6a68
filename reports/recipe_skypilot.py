"""A recipe to be run on a rented GPU: a SkyPilot task around another recipe, or around tuneplan."""

from __future__ import annotations

import csv
import functools
import math
from pathlib import Path
from typing import Any

from estimator.documents import is_there, to_yaml
from estimator.models import resolve_model
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from reports.recipe import build_recipe, placeholder_note, usable_model
from reports.recipe_data import find_data
from reports.recipe_files import Recipe, Renderer, to_other_yaml
from reports.recipe_mapping import load_target, map_plan, read_recipe_file
from trainer.not_built import refuse_what_is_not_built

PROJECT = "project"
"""The folder in a task's folder that is copied to the machine."""

UNKNOWN_DISK_GB = 256
"""SkyPilot's own default, where a model's size is not known."""

_SYSTEM_GB = 60  # operating system, CUDA and Python packages; our assumption
_CHECKPOINTS_KEPT = 4  # the newest, the best, one on its way, and the saved model
_BYTES_DOWNLOADED = 4  # per parameter at most: checkpoints on the Hub are fp32 or smaller
_BYTES_PER_TRAINED = 12  # per trained parameter in a checkpoint: fp32 weights and AdamW's moments


@functools.cache
def accelerators() -> dict[str, str]:
    """Return SkyPilot's name for each GPU of the catalogue that it has one for."""
    rows = csv.DictReader(read_recipe_file("skypilot_gpus.csv").splitlines())
    return {row["gpu"]: row["accelerator"] for row in rows}


def build_skypilot(plan: FineTunePlan, trainer: str, data_path: str | None = None) -> Recipe:
    """Return a plan as a SkyPilot task that runs a trainer on a rented GPU.

    Args:
        plan: What to train.
        trainer: One of ``recipe_mapping.TRAINERS``, or tuneplan.
        data_path: What to train on, in place of the plan's data.

    Raises:
        InputError: SkyPilot does not know the GPU, the trainer has not what the plan needs, or
            the model or data cannot be used.
    """
    if plan.gpu_spec.name not in accelerators():
        what = f"SkyPilot has no name for {plan.gpu_spec.name}"
        fix = "name another GPU: --set gpu=..."
        raise InputError(Problem("gpu", what, ", ".join(accelerators()), fix))
    model = usable_model(plan.model)
    is_local = is_there(Path(model))
    there = "../model" if is_local else model
    if trainer == "tuneplan":
        recipe = _own_recipe(plan, there, data_path)
    else:
        recipe = build_recipe(plan, trainer, data_path, model_name=there)
    return _around(recipe, {"~/model": model} if is_local else {})


def _own_recipe(plan: FineTunePlan, model: str, data_path: str | None) -> Recipe:
    """tuneplan itself as the trainer: its plan file says everything."""
    refuse_what_is_not_built(plan)
    target = load_target("tuneplan")
    data = find_data(data_path or plan.data.path, plan.data.format)
    document = plan.to_document()
    document["model"], document["data"]["path"] = model, None
    return Recipe(
        plan,
        target,
        map_plan(plan, target, {}),
        data,
        files={"plan.yaml": to_yaml(document)},
        data_style="tuneplan",
    )


def _around(inner: Recipe, mounts: dict[str, str]) -> Recipe:
    plan, target = inner.plan, load_target("skypilot")
    facts = {"accelerator": accelerators()[plan.gpu_spec.name]}
    mapped = map_plan(plan, target, facts, keys=target.settings)
    own = {row.key: row for row in mapped.rows if row.told}
    mapped.rows = [own.get(row.key, row) for row in inner.mapped.rows]
    empty = placeholder_note(plan, inner.data_folder)
    recipe = Recipe(
        plan,
        target,
        mapped,
        inner.data,
        notes=[note for note in inner.notes if note != empty],
        data_style=inner.data_style,
        data_folder=f"{PROJECT}/{inner.data_folder}",
    )
    if inner.data.is_placeholder:
        recipe.notes.insert(0, placeholder_note(plan, recipe.data_folder))
    disk_gb = _disk_gb(plan)
    if disk_gb == UNKNOWN_DISK_GB:
        recipe.notes.append(f"The disk of {disk_gb} GB is SkyPilot's default or a guess: check it")
    if inner.target.id == "tuneplan":
        mounts = mounts | {"~/tuneplan": str(_own_source())}
    needed = (*target.requirements, *inner.target.required(plan))
    told_to = f"SkyPilot and {inner.target.name}"
    render = Renderer(recipe, inner=inner, told_to=told_to, packages=needed)
    task = _task(inner, mapped.nested(), disk_gb, mounts)
    recipe.files = {f"{PROJECT}/{name}": text for name, text in inner.files.items()}
    recipe.files |= {
        "task.yaml": f"# {inner.target.name} on a rented GPU\n{to_other_yaml(task)}",
        "requirements.txt": "\n".join(target.requirements) + "\n",
        "README.md": render("skypilot_README.md.j2"),
        "MAPPING.md": render("MAPPING.md.j2"),
    }
    return recipe


def _task(
    inner: Recipe, settings: dict[str, Any], disk_gb: int, mounts: dict[str, str]
) -> dict[str, Any]:
    version = inner.target.python.removeprefix(">=")
    needed = "~/tuneplan" if inner.target.id == "tuneplan" else "-r requirements.txt"
    task: dict[str, Any] = {
        "name": f"{inner.plan.method}-{inner.target.id}".replace("_", "-"),
        "resources": settings["resources"] | {"disk_size": disk_gb},
        "workdir": PROJECT,
        "secrets": {"HF_TOKEN": ""},
    }
    if mounts:
        task["file_mounts"] = mounts
    task["setup"] = (
        "pip install uv\n"
        f"uv venv --python {version} ~/train\n"
        f"uv pip install --python ~/train/bin/python {needed}\n"
    )
    task["run"] = f"source ~/train/bin/activate\n{_run_command(inner)}\n"
    return task


def _run_command(inner: Recipe) -> str:
    if inner.target.id != "tuneplan":
        return inner.commands[1]
    if inner.data.hub:
        rest = ":".join(filter(None, [inner.data.hub, inner.data.hub_config]))
        return f"tuneplan finetune plan.yaml --data {rest}"
    held_out = " --validation data/validation.jsonl"
    has_some = inner.plan.schedule.validation_fraction > 0
    return f"tuneplan finetune plan.yaml --data data/train.jsonl{held_out if has_some else ''}"


def _own_source() -> Path:
    folder = Path(__file__).resolve().parent.parent
    if not (folder / "pyproject.toml").exists():
        what = "tuneplan was installed without its source folder, which the machine would need"
        raise InputError(Problem("--trainer tuneplan", what, fix="use --trainer trl"))
    return folder


def _disk_gb(plan: FineTunePlan) -> int:
    """Room for the system, the download and the checkpoints, rounded up to ten GB."""
    try:
        num_parameters = resolve_model(plan.model).num_parameters
    except InputError:  # the Hub cannot be asked now
        num_parameters = None
    if num_parameters is None:
        return UNKNOWN_DISK_GB
    size = num_parameters * _BYTES_DOWNLOADED
    if not plan.uses_adapter:
        size += _CHECKPOINTS_KEPT * num_parameters * _BYTES_PER_TRAINED
    return 10 * math.ceil((_SYSTEM_GB + size / 1e9) / 10)
