"""From what pydantic finds wrong to problems a person can act on."""

from __future__ import annotations

import copy
import difflib
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from estimator.problems import InputError, Problem

Model = TypeVar("Model", bound=BaseModel)

_UNKNOWN = "extra_forbidden"  # as pydantic calls it

MOST_KEY_LISTS = 3
"""With more unknown keys than this in one place, the known ones are listed for the first alone."""

_KINDS = {
    "a plan": (
        ("model", "method"),
        "tuneplan estimate reads it; in a scenario it stands under `plan:`",
    ),
    "a scenario": (("answers", "plan", "workload"), "tuneplan advise and report read it"),
    "a set of answers": (
        ("gap", "tried", "evals", "ext"),
        "tuneplan advise reads it; in a scenario it stands under `answers:`",
    ),
}
"""Keys that only one kind of file has, and what is done with such a file."""


def validate(model: type[Model], document: dict[str, Any], name: str) -> Model:
    """Return ``document`` as a ``model``.

    Checks across keys only run once each key is right by itself, so where a key is wrong it is
    left out and the rest is looked at again: every problem comes out in one go.

    Args:
        model: The pydantic model that describes the document.
        document: Parsed YAML or JSON.
        name: What to call the document in problems, usually its path.

    Raises:
        InputError: Something is wrong; it lists all of it.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = _problems(error, model, name)
        problems += _problems_left(model, document, error, name)
        raise InputError(dict.fromkeys(problems)) from None


def refuse_other_kind(
    document: dict[str, Any], wanted: str, own: Collection[str], name: str
) -> None:
    """Refuse a document of another kind in one line, in place of one line for each of its keys.

    Args:
        document: Parsed YAML or JSON.
        wanted: What was asked for, such as ``a plan``.
        own: The keys of that kind; a document with one of them is taken for it.
        name: What to call the document in problems, usually its path.

    Raises:
        InputError: The document has keys of another kind and none of its own.
    """
    if any(key in own for key in document):
        return
    for kind, (marks, fix) in _KINDS.items():
        found = [key for key in marks if key in document]
        if kind != wanted and found:
            raise InputError(
                Problem(name, f"is {kind} (it has {', '.join(found)}), not {wanted}", fix=fix)
            )


def _problems_left(
    model: type[BaseModel], document: dict[str, Any], error: ValidationError, name: str
) -> list[Problem]:
    """Problems that show only when the keys already named are left out."""
    rest = copy.deepcopy(document)
    for item in error.errors():
        if not item["loc"]:
            return []
        _remove(rest, item["loc"])
    try:
        model.model_validate(rest)
    except ValidationError as second:
        return _problems(second, model, name, skipped="missing")
    return []


def _remove(document: Any, location: tuple[int | str, ...]) -> None:
    """Leave out the key that ``location`` names, as far as it exists in the document."""
    for part in location:
        if not isinstance(document, dict) or part not in document:
            return
        if not isinstance(document[part], dict) or part == location[-1]:
            del document[part]
            return
        document = document[part]


def _problems(
    error: ValidationError, model: type[BaseModel], name: str, *, skipped: str = ""
) -> list[Problem]:
    found = []
    unknown = Counter(item["loc"][:-1] for item in error.errors() if item["type"] == _UNKNOWN)
    listed = {place for place, number in unknown.items() if number <= MOST_KEY_LISTS}
    for item in error.errors():
        if item["type"] in (skipped, "default_factory_not_called"):
            continue
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, InputError):  # a check of ours: it has said all but the document
            found += [replace(one, where=f"{name}: {one.where}") for one in cause.problems]
        else:
            place = item["loc"][:-1]
            problem = _problem(item, model, name)
            if item["type"] == _UNKNOWN and place in unknown and place not in listed:
                unknown.pop(place)  # the first of many: it alone lists what is known
            elif item["type"] == _UNKNOWN and place not in listed:
                problem = replace(problem, allowed="")
            found.append(problem)
    return found


def _problem(item: Any, model: type[BaseModel], name: str) -> Problem:
    key = ".".join(str(part) for part in item["loc"] if not str(part).endswith("]"))
    where = f"{name}: {key}" if key else name
    if item["type"] == "missing":
        return Problem(where, "is missing", fix=f"add `{key}:`")
    if item["type"] == _UNKNOWN:
        known = _keys_at(model, item["loc"][:-1])
        close = difflib.get_close_matches(str(item["loc"][-1]), known, 1)
        fix = f"did you mean {close[0]}?" if close else "remove it"
        return Problem(where, "is not a known key", ", ".join(known), fix)
    what = f"{item['input']!r} is not allowed"
    allowed = _allowed(item)
    return Problem(where, what, allowed, _fix(item, allowed))


def _allowed(item: Any) -> str:
    context = item.get("ctx", {})
    if "expected" in context:
        return context["expected"].replace("'", "").replace(" or ", ", ")
    text = item["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return text.removeprefix("Value error, ").replace("Input should have", "with")


def _fix(item: Any, allowed: str) -> str:
    choices = allowed.split(", ")
    close = difflib.get_close_matches(str(item["input"]), choices, 1)
    return f"did you mean {close[0]}?" if close and len(choices) > 1 else "change the value"


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        nested = field.annotation if field else None
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            return []
        model = nested
    return list(model.model_fields)
