"""A plan as a ready-to-run project for another trainer: its files, and what they cannot say."""

from __future__ import annotations

import copy
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FunctionLoader, StrictUndefined

from estimator.catalogue import find_bundled_model
from estimator.documents import is_there
from estimator.models import resolve_model
from estimator.plan import TRAINS_WEIGHTS, FineTunePlan
from estimator.problems import InputError, Problem
from reports.recipe_data import RecipeData, find_data, write_data
from reports.recipe_mapping import Mapped, Target, load_target, map_plan, python, read_recipe_file
from trainer.learning_rates import LEARNING_RATES
from trainer.pretrained import check_weights

TORCH_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

_LAST_SHARE = 0.99
"""Where an evaluation each so many epochs would lie past the end: at the end, but for rounding."""


@dataclass(slots=True)
class Recipe:
    """A project for another trainer, not written yet.

    Attributes:
        plan: What it trains.
        target: For whom.
        mapped: The plan in its words.
        data: What it trains on.
        files: Their texts, by path in the project's folder.
        notes: What a person should know before running it.
        data_style: Whose columns the data is written in.
        data_folder: Where in the project's folder.
    """

    plan: FineTunePlan
    target: Target
    mapped: Mapped
    data: RecipeData
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    data_style: str = ""
    data_folder: str = "data"

    @property
    def commands(self) -> tuple[str, str]:
        """The two that run it: install, and train."""
        return "pip install -r requirements.txt", run_command(self.plan, self.target)

    def to_document(self, folder: Path) -> dict[str, Any]:
        """Return what was made as plain JSON values."""
        return {
            "target": self.target.id,
            "folder": str(folder),
            "files": sorted(str(one.relative_to(folder)) for one in folder.rglob("*.*")),
            "requirements": list(self.target.requirements),
            "commands": list(self.commands),
            "differs": [
                {"key": row.key, "value": row.value, "what_happens": row.differs}
                for row in self.mapped.differing
            ],
            "notes": self.notes,
        }


def run_command(plan: FineTunePlan, target: Target) -> str:
    """Return the command that trains, under a launcher where there are several processes."""
    command = target.run
    if plan.parallel.strategy != "none":
        command = target.run_parallel.replace("{n}", str(plan.parallel.data_parallel_size))
    if target.sections == "yaml" and (plan.expandable_segments or target.expands_segments):
        return f"PYTORCH_ALLOC_CONF=expandable_segments:{plan.expandable_segments} {command}"
    return command


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
    recipe.files = dict(_files(recipe))
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


def _notes(plan: FineTunePlan, target: Target, data: RecipeData) -> Iterator[str]:
    if data.is_placeholder:
        yield (
            "There is no data yet: put examples into data/train.jsonl"
            + (" and data/validation.jsonl" if plan.schedule.validation_fraction else "")
            + ", or make the recipe again with --data FILE"
        )
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
    if plan.loss == "liger" and target.id == "llama-factory":
        yield "loss: liger needs `pip install liger-kernel` besides; no version was checked"


def _files(recipe: Recipe) -> Iterator[tuple[str, str]]:
    target, render = recipe.target, Renderer(recipe)
    if target.sections == "python":
        yield "train.py", render(f"{target.id}.py.j2")
        if recipe.data.is_conversation:
            yield "chat_template.jinja", read_recipe_file("plain_chat_template.jinja")
    else:
        yield from _configuration(recipe)
    if recipe.plan.parallel.strategy.startswith("zero"):
        yield "ds_config.json", render("ds_config.json.j2")
    yield "requirements.txt", "\n".join(target.requirements) + "\n"
    yield "plan.yaml", recipe.plan.to_yaml()
    yield "README.md", render("README.md.j2")
    yield "MAPPING.md", render("MAPPING.md.j2")


def _configuration(recipe: Recipe) -> Iterator[tuple[str, str]]:
    settings = recipe.mapped.nested()
    if recipe.target.id == "axolotl":
        settings |= _axolotl_data(recipe)
    else:
        settings |= _llama_factory_data(recipe)
        datasets = _llama_factory_datasets(recipe)
        yield "data/dataset_info.json", datasets
    yield "config.yaml", "# MAPPING.md explains each setting.\n" + to_other_yaml(settings)


class _Dumper(yaml.SafeDumper):
    """YAML as PyYAML reads it, which the other trainers use: 1.1, where ``no`` is false."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out."""
        del data
        return True


def _block_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _block_text)


def to_other_yaml(document: dict[str, Any]) -> str:
    """Return a mapping as YAML for programs that read it with PyYAML."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _has_validation_file(recipe: Recipe) -> bool:
    return recipe.plan.schedule.validation_fraction > 0 and not recipe.data.hub


def _kind(recipe: Recipe) -> str:
    return "chat" if recipe.data.is_conversation else recipe.data.kind


def _axolotl_data(recipe: Recipe) -> dict[str, Any]:
    data = recipe.data
    form = recipe.target.data_kinds[_kind(recipe)]
    settings: dict[str, Any] = {}
    if data.is_conversation:
        settings["chat_template"] = "tokenizer_default_fallback_chatml"
    if data.hub:
        one = {"path": data.hub, "split": data.hub_split}
        settings["datasets"] = [
            one | ({"name": data.hub_config} if data.hub_config else {}) | dict(form)
        ]
        return settings
    settings["datasets"] = [{"path": "data/train.jsonl", "ds_type": "json", **form}]
    if _has_validation_file(recipe):
        held_out = {"path": "data/validation.jsonl", "ds_type": "json", "split": "train"}
        settings["test_datasets"] = [held_out | copy.deepcopy(form)]
    return settings


def _llama_factory_data(recipe: Recipe) -> dict[str, Any]:
    settings: dict[str, Any] = {"dataset": "train"}
    if _has_validation_file(recipe):
        settings["eval_dataset"] = "validation"
    if recipe.data.kind == "text":
        settings["stage"] = "pt"
    if recipe.data.kind == "prompt_completion":
        settings["template"] = "empty"
    return settings


def _llama_factory_datasets(recipe: Recipe) -> str:
    data = recipe.data
    form = recipe.target.data_kinds[_kind(recipe)]
    if data.hub:
        where = {"hf_hub_url": data.hub, "split": data.hub_split}
        train = where | ({"subset": data.hub_config} if data.hub_config else {})
        datasets = {"train": train | dict(form)}
    else:
        datasets = {"train": {"file_name": "train.jsonl", **form}}
        if _has_validation_file(recipe):
            datasets["validation"] = {"file_name": "validation.jsonl", **form}
    return json.dumps(datasets, indent=2) + "\n"


class Renderer:
    """Renders templates with everything that is known of a recipe."""

    def __init__(self, recipe: Recipe, **beside: Any) -> None:
        self.names = beside | {
            "recipe": recipe,
            "plan": recipe.plan,
            "target": recipe.target,
            "mapped": recipe.mapped,
            "data": recipe.data,
            "has_validation_file": _has_validation_file(recipe),
            "schedule": recipe.plan.schedule,
        }
        self.environment = Environment(
            loader=FunctionLoader(read_recipe_file),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self.environment.filters |= {"python": python, "cell": _cell, "arguments": _arguments}

    def __call__(self, template: str) -> str:
        """Return a template's text."""
        return self.environment.get_template(template).render(self.names)


def _cell(value: Any) -> str:
    """A value in a Markdown table."""
    text = "null" if value is None else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return text.replace("|", "\\|").replace("\n", " ")


def _arguments(settings: dict[str, Any], indent: int = 8) -> str:
    """Keyword arguments, one a line."""
    pad = " " * indent
    return "".join(f"{pad}{key}={python(value)},\n" for key, value in settings.items()).lstrip()


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
