"""A recipe's files: the trainer's configuration or script, and what is written beside it."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FunctionLoader, StrictUndefined

from estimator.plan import FineTunePlan
from reports.recipe_data import RecipeData
from reports.recipe_mapping import Mapped, Target, python, read_recipe_file


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
            "files": sorted(
                str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()
            ),
            "requirements": list(self.target.required(self.plan)),
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
    in_script = target.sections == "python" and not target.expands_segments
    if target.expands_segments or (plan.expandable_segments and not in_script):
        return f"PYTORCH_ALLOC_CONF=expandable_segments:{plan.expandable_segments} {command}"
    return command


def files_of(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield a recipe's files: their paths in its folder, and their texts."""
    target, render = recipe.target, Renderer(recipe)
    if target.sections == "python":
        yield "train.py", render(f"{target.id}.py.j2")
        if recipe.data.is_conversation:
            yield "chat_template.jinja", read_recipe_file("plain_chat_template.jinja")
    else:
        yield from _configuration(recipe)
    if recipe.plan.parallel.strategy.startswith("zero"):
        yield "ds_config.json", render("ds_config.json.j2")
    yield "requirements.txt", "\n".join(target.required(recipe.plan)) + "\n"
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
        self.names: dict[str, Any] = {
            "told_to": recipe.target.name,
            "packages": recipe.target.required(recipe.plan),
            "recipe": recipe,
            "plan": recipe.plan,
            "target": recipe.target,
            "mapped": recipe.mapped,
            "data": recipe.data,
            "has_validation_file": _has_validation_file(recipe),
            "schedule": recipe.plan.schedule,
        } | beside

    def __call__(self, template: str) -> str:
        """Return a template's text."""
        return _environment().get_template(template).render(self.names)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(read_recipe_file),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"python": python, "cell": _cell, "arguments": _arguments}
    return environment


def _cell(value: Any) -> str:
    """A value in a Markdown table."""
    text = "null" if value is None else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return text.replace("|", "\\|").replace("\n", " ")


def _arguments(settings: dict[str, Any], indent: int = 8) -> str:
    """Keyword arguments, one a line."""
    pad = " " * indent
    return "".join(f"{pad}{key}={python(value)},\n" for key, value in settings.items()).lstrip()
