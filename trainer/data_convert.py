"""Training data written anew: as chat JSONL for hosted fine-tuning, or as plain JSONL."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any, Literal

from estimator.problems import InputError, Problem
from trainer.example_formats import Example, Turn
from trainer.examples import ExampleSource

Target = Literal["openai", "jsonl"]


def convert_data(source: ExampleSource, target: Target, path: Path) -> int:
    """Write a source's examples to a file, one a line, and return how many there are.

    Args:
        source: What to write.
        target: openai: every example as ``{"messages"}``; a prompt becomes the user's message.
            jsonl: each example in its own format.
        path: Where to; what is there is replaced once all is written. Never the source itself.

    Raises:
        InputError: Rows are broken, plain text is to become a conversation, or the file is the
            source or cannot be written; what was there is still there.
    """
    if path.exists() and any(path.samefile(read) for read, _ in source.files):
        what = "is the data that is to be converted"
        raise InputError(Problem(str(path), what, fix="name another file"))
    if target == "openai" and source.format == "text":
        what = "is plain text, which is no conversation: nobody asks in it"
        fix = "give each row a prompt and a completion, or messages"
        raise InputError(Problem(source.name, what, "chat, prompt_completion, instruction", fix))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    num_examples = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("x", encoding="utf-8", newline="\n") as stream:
            for example in source:
                row = _as_messages(example) if target == "openai" else _as_is(example)
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                num_examples += 1
        temporary.replace(path)
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        fix = "name a file in a writable folder"
        raise InputError(Problem(str(path), what, fix=fix)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return num_examples


def _as_messages(example: Example) -> dict[str, Any]:
    if example.turns:
        return {"messages": [_message(turn) for turn in example.turns]}
    asked = Turn("user", example.prompt.removesuffix("\n"))
    return {"messages": [_message(asked), _message(Turn("assistant", example.completion))]}


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    return message if turn.is_learned else message | {"weight": 0}


def _as_is(example: Example) -> dict[str, Any]:
    if example.turns:
        return _as_messages(example)
    if not example.prompt:
        return {"text": example.completion}
    return {"prompt": example.prompt, "completion": example.completion}
