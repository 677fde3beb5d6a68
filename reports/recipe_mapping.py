"""How another trainer is told each setting of a plan: its mapping (data) applied to one plan."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from jinja2 import Environment, Undefined

from estimator.documents import parse_document
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem

TRAINERS = ("trl", "axolotl", "llama-factory", "unsloth")
"""The trainers that a recipe can be made for, by the names of their files in ``recipes/``."""

NOT_USED = "not used by this plan"
CANNOT = "cannot"
IN_SCRIPT = "in train.py"

_OPEN_ENDED = ("gpu",)  # a name or a mapping: one setting either way


@dataclass(frozen=True, slots=True)
class Row:
    """One setting of a plan, and what became of it.

    Attributes:
        key: In the plan, dotted.
        value: The plan's.
        told: What the target is told, as it is written there; several joined by commas; or
            ``NOT_USED``, ``CANNOT``, or empty where nothing needs to be said.
        differs: What happens in place of what the plan says; empty where it is met.
        note: What a reader should know besides.
    """

    key: str
    value: Any
    told: str
    differs: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A trainer's mapping, as its file in ``recipes/`` holds it; docs/recipes.md explains it."""

    id: str
    name: str
    python: str
    requirements: tuple[str, ...]
    run: str
    run_parallel: str = ""
    sections: str = "yaml"
    data_style: str = ""
    expands_segments: bool = False
    also_requires: Mapping[str, str] = field(default_factory=dict)
    can: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    everything: str = ""
    always: Mapping[str, Any] = field(default_factory=dict)
    data_kinds: Mapping[str, Any] = field(default_factory=dict)

    def refusals(self, plan: FineTunePlan) -> list[Problem]:
        """Return one problem for each setting without which the training would be another."""
        values = flat(plan)
        return [
            Problem(
                f"{key}: {values[key]}",
                f"{self.name} has no such thing",
                ", ".join(allowed),
                _who_can(key, values[key]),
            )
            for key, allowed in self.can.items()
            if values[key] not in allowed
        ]

    def required(self, plan: FineTunePlan) -> tuple[str, ...]:
        """Return the pinned packages that a plan needs."""
        names = {"plan": plan.to_document()}
        more = (one for test, one in self.also_requires.items() if _evaluate(test, names))
        return (*self.requirements, *more)


def _who_can(key: str, value: str) -> str:
    able = [one for one in TRAINERS if value in load_target(one).can[key]]
    if able:
        return f"use --for {' or --for '.join(able)}, or change {key}"
    return f"change {key}"


@functools.cache
def load_target(name: str) -> Target:
    """Return a target's mapping by its name, for example ``llama-factory``."""
    document = _read(f"{name}.yaml")
    document["requirements"] = tuple(document["requirements"])
    document["can"] = {key: tuple(one) for key, one in document.get("can", {}).items()}
    return Target(id=name, **document)


def read_recipe_file(name: str) -> str:
    """Return the text of a file in ``recipes/``."""
    return (resources.files("reports") / "recipes" / name).read_text(encoding="utf-8")


def _read(name: str) -> dict[str, Any]:
    return parse_document(read_recipe_file(name), name)


@functools.cache
def _conditions() -> dict[str, str]:
    return _read("plan_keys.yaml")


def flat(plan: FineTunePlan) -> dict[str, Any]:
    """Return every setting of a plan by its dotted key, in the plan's own order."""
    return dict(_flat(plan.to_document()))


def _flat(document: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in document.items():
        key = prefix + name
        if isinstance(value, dict) and key not in _OPEN_ENDED:
            found += _flat(value, f"{key}.")
        else:
            found.append((key, value))
    return found


@dataclass(slots=True)
class Mapped:
    """A plan in a target's words.

    Attributes:
        told: What is set, by section and key (``SFTConfig.max_length``) or dotted key.
        rows: One for each setting of the plan.
    """

    told: dict[str, Any]
    rows: list[Row]

    def section(self, name: str) -> dict[str, Any]:
        """Return what is set in one section of a script."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): value
            for key, value in self.told.items()
            if key.startswith(prefix)
        }

    def nested(self) -> dict[str, Any]:
        """Return what is set as a configuration file's mapping, dotted keys unfolded."""
        document: dict[str, Any] = {}
        for key, value in self.told.items():
            *path, last = key.split(".")
            part = document
            for name in path:
                part = part.setdefault(name, {})
            part[last] = value
        return document

    @property
    def differing(self) -> list[Row]:
        """The settings that the target does not meet."""
        return [row for row in self.rows if row.differs]


def map_plan(
    plan: FineTunePlan,
    target: Target,
    facts: Mapping[str, Any],
    keys: Collection[str] | None = None,
) -> Mapped:
    """Return a plan in a target's words.

    Args:
        plan: One that the target does not refuse.
        target: Whose words.
        facts: What expressions need beside the plan.
        keys: Only these settings; None for all.

    Raises:
        InputError: The target refuses the plan; every reason is listed.
    """
    problems = target.refusals(plan)
    if problems:
        raise InputError(problems)
    document = plan.to_document()
    mapped = Mapped(dict(target.always), [])
    for key, value in flat(plan).items():
        if keys is not None and key not in keys:
            continue
        names = {"plan": document, "facts": facts, "value": value}
        condition = _conditions().get(key)
        if target.everything:
            mapped.rows.append(Row(key, value, target.everything))
        elif condition and not _evaluate(condition, names):
            mapped.rows.append(Row(key, value, NOT_USED))
        else:
            mapped.rows.append(_row(key, value, target, names, mapped.told))
    return mapped


def _row(key: str, value: Any, target: Target, names: dict[str, Any], told: dict[str, Any]) -> Row:
    rule = target.settings[key]
    said = {}
    for name, expression in rule.get("set", {}).items():
        found = _evaluate(expression, names)
        if not isinstance(found, Undefined):
            said[name] = found
    told |= said
    differs = rule["otherwise"] if _evaluate(rule.get("lost", False), names) else ""
    written = ", ".join(_written(name, one, target) for name, one in said.items())
    if differs and not written:
        written = CANNOT
    return Row(key, value, written, differs, rule.get("note", ""))


def _written(name: str, value: Any, target: Target) -> str:
    if target.sections == "yaml":
        return f"{name}: {json.dumps(value, ensure_ascii=False)}".replace('"', "")
    section, _, key = name.partition(".")
    if section == "script":
        return IN_SCRIPT
    return f"{section}({key}={python(value)})"


def python(value: Any) -> str:
    """Return a plain value as Python is written, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python(key)}: {python(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(python, value)) + "]"
    return repr(value)


_EXPRESSIONS = Environment(undefined=Undefined, autoescape=False)


@functools.cache
def _compiled(expression: str) -> Any:
    return _EXPRESSIONS.compile_expression(expression, undefined_to_none=False)


def _evaluate(expression: Any, names: dict[str, Any]) -> Any:
    """The value of a mapping's expression; Undefined where an ``if`` without ``else`` is false."""
    if not isinstance(expression, str):  # a literal: true, false or a number
        return expression
    return _compiled(expression)(**names)
