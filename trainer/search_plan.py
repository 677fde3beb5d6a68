"""The best plan of a search on disk: beside the run, and where a person asked for it."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from estimator.documents import read_text, write_atomic, write_out
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer.search_results import SearchRequest

BEST_PLAN = "best-plan.yaml"


def differences(ours: FineTunePlan, theirs: FineTunePlan) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two plans differ, with both values."""
    left, right = dict(_flat(ours.to_document())), dict(_flat(theirs.to_document()))
    return {key: (left[key], right[key]) for key in left if left[key] != right.get(key, left[key])}


def _flat(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def keep_best(folder: Path, plan: FineTunePlan) -> Path:
    """Write the best plan so far into the search's folder, and return the file."""
    path = folder / BEST_PLAN
    write_atomic(path, _movable(plan).to_yaml())
    return path


def _movable(plan: FineTunePlan) -> FineTunePlan:
    """A plan that holds in any folder: model and data are named by their whole paths."""
    data = plan.data.model_dump()
    if data["path"]:
        data["path"] = _whole_path(data["path"])
    return plan.changed(model=_whole_path(plan.model), data=data)


def _whole_path(name: str) -> str:
    return str(Path(name).absolute()) if Path(name).exists() else name


def write_best(request: SearchRequest, plan: FineTunePlan) -> str:
    """Write the best plan where the request wants it, and return a sentence on what was done.

    In place only the keys that differ are changed, so comments stay; the file as it was is kept.

    Raises:
        InputError: The file cannot be read or written.
    """
    if request.write_to is None:
        return ""
    path = Path(request.write_to)
    if not request.in_place:
        if path.exists():  # it was not there when the search began
            raise InputError(Problem(str(path), "exists by now, and no plan is written over"))
        write_out(path, _movable(plan).to_yaml())
        return f"The best plan was written to {path}."
    old = read_text(path)
    changes = differences(request.plan, plan)
    if not changes:
        return f"{path} has the best plan already, and was left as it is."
    names = (f"{path}.bak{n or ''}" for n in itertools.count())
    backup = next(Path(name) for name in names if not Path(name).exists())
    write_out(backup, old)
    write_out(path, _changed_text(old, {key: new for key, (_, new) in changes.items()}))
    return f"{path} now has the best plan; as it was it is kept in {backup}."


def _changed_text(text: str, values: dict[str, Any]) -> str:
    """A YAML or JSON text with dotted keys changed and everything else, comments too, kept."""
    yaml: Any = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    document = yaml.load(text)
    for key, value in values.items():
        *parents, last = key.split(".")
        inner = document
        for name in parents:
            inner = inner.setdefault(name, {})
        inner[last] = int(value) if isinstance(value, float) and value.is_integer() else value
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()
