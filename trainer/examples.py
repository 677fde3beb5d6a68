"""Training examples in a file, read and checked without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estimator.problems import InputError, Problem

_MAX_PROBLEMS = 20
_SHAPES = '{"text"}, {"prompt", "completion"} or {"messages": [{"role", "content"}]}'


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: what is given, and what is to be learned."""

    prompt: str
    completion: str


def read_examples(path: Path) -> list[Example]:
    """Return the examples of a JSONL file.

    Each line is ``{"text"}``, ``{"prompt", "completion"}`` or ``{"messages"}`` whose last one
    is the assistant's.

    Raises:
        InputError: The file cannot be read, holds nothing, or has broken lines; each is named.
    """
    try:
        # splitlines() would also cut at U+2028 and its like, which JSON strings may hold.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})"
        raise InputError(Problem(str(path), what, fix="name a UTF-8 JSONL file")) from error
    examples, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            examples.append(_example(json.loads(line)))
        except json.JSONDecodeError as error:
            what = f"is not JSON ({error.msg} at column {error.colno})"
            problems.append(Problem(where, what, _SHAPES, "correct or remove the line"))
        except (KeyError, TypeError, IndexError, ValueError):
            what = "does not have the shape of an example"
            problems.append(Problem(where, what, _SHAPES, "correct or remove the line"))
    if problems:
        raise InputError(problems[:_MAX_PROBLEMS])
    if not examples:
        raise InputError(Problem(str(path), "holds no examples", _SHAPES, "add some lines"))
    return examples


def _example(row: Any) -> Example:
    if "messages" in row:
        *before, last = row["messages"]
        if last["role"] != "assistant":
            raise ValueError
        prompt = "".join(f"{message['role']}: {message['content']}\n" for message in before)
        return Example(f"{prompt}assistant: ", _text(last["content"]))
    if "text" in row:
        return Example("", _text(row["text"]))
    return Example(f"{_text(row['prompt'])}\n", _text(row["completion"]))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value
