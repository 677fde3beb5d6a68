"""From what pydantic finds wrong to problems a person can act on."""

from __future__ import annotations

import copy
import difflib
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from estimator.problems import InputError, Problem

Model = TypeVar("Model", bound=BaseModel)


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
    for item in error.errors():
        if item["type"] in (skipped, "default_factory_not_called"):
            continue
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, InputError):  # a check of ours: it has said all but the document
            found += [replace(one, where=f"{name}: {one.where}") for one in cause.problems]
        else:
            found.append(_problem(item, model, name))
    return found


def _problem(item: Any, model: type[BaseModel], name: str) -> Problem:
    key = ".".join(str(part) for part in item["loc"] if not str(part).endswith("]"))
    where = f"{name}: {key}" if key else name
    if item["type"] == "missing":
        return Problem(where, "is missing", fix=f"add `{key}:`")
    if item["type"] == "extra_forbidden":
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
