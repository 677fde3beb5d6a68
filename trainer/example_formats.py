"""From a row of a data file to a training example: which columns mean what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

ExampleFormat = Literal["chat", "prompt_completion", "instruction", "text"]

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
    # ShareGPT's names
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "observation": "tool",
}
"""What a message's role may be called, and what it is called here."""

_COLUMNS: tuple[tuple[ExampleFormat, tuple[tuple[str, ...], ...]], ...] = (
    ("chat", (("messages",), ("conversations",), ("conversation",))),
    ("instruction", (("instruction", "output"), ("instruction", "response"))),
    (
        "prompt_completion",
        (
            ("prompt", "completion"),
            ("prompt", "response"),
            ("question", "answer"),
            ("query", "response"),
            ("input", "output"),
        ),
    ),
    ("text", (("text",), ("content",))),
)
_OPTIONAL = ("input", "context")
"""What an instruction may come with."""

KNOWN_COLUMNS = frozenset(
    name for _, choices in _COLUMNS for names in choices for name in names
) | frozenset(_OPTIONAL)
"""Every column that some format reads; the others are never looked into."""

SHAPES = (
    '{"messages": [{"role", "content"}]}, {"prompt", "completion"}, '
    '{"instruction", "input", "output"} or {"text"}'
)


class RowProblem(ValueError):
    """A row that is no example of its file's format: what is wrong, and what to do."""

    def __init__(self, what: str, fix: str = "correct or remove it") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: system, developer, user, assistant or tool.
        content: Its text.
        is_learned: Whether an assistant's turn is trained on (OpenAI's ``"weight": 0`` says no).
    """

    role: str
    content: str
    is_learned: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: a conversation, or a raw prompt and what is to follow it.

    Attributes:
        prompt: What is given and not learned; empty for plain text.
        completion: What is learned.
        turns: The messages of a conversation; prompt and completion are empty then.
    """

    prompt: str = ""
    completion: str = ""
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """A format, and the columns that it is read from.

    Attributes:
        format: How a row becomes an example.
        names: The columns read: messages; or prompt and completion; or instruction, output and
            what the instruction comes with; or text.
    """

    format: ExampleFormat
    names: tuple[str, ...]


def find_columns(names: Iterable[str], wanted: str = "auto") -> Columns | None:
    """Return the format and columns that a row with these column names has, or None.

    Args:
        names: The row's column names.
        wanted: The only format to look for, or auto: the first that fits.
    """
    there = set(names)
    for form, choices in _COLUMNS:
        if wanted not in ("auto", form):
            continue
        for chosen in choices:
            if there.issuperset(chosen):
                optional = [name for name in _OPTIONAL if name in there - set(chosen)]
                more = tuple(optional) if form == "instruction" else ()
                return Columns(form, chosen + more)
    return None


def example_of(row: Mapping[str, Any], columns: Columns) -> Example:
    """Return the example that a row holds.

    Raises:
        RowProblem: The row does not fit the columns.
    """
    for name in columns.names[:2]:
        if name not in row:
            raise RowProblem(f"has no {name!r}, as the first example has")
    if columns.format == "chat":
        return Example(turns=_turns(row[columns.names[0]], columns.names[0]))
    if columns.format == "text":
        return Example(completion=_text(row[columns.names[0]], columns.names[0]))
    first, second = columns.names[:2]
    given, learned = _text(row[first], first), _text(row[second], second)
    if columns.format == "prompt_completion":
        return Example(_joined(given, learned), learned)
    for name in _OPTIONAL:  # in any row, whether or not the first one has it
        if name not in columns.names[:2] and row.get(name) not in (None, ""):
            given += f"\n\n{_text(row[name], name)}"
    return Example(turns=(Turn("user", given), Turn("assistant", learned)))


def _joined(prompt: str, completion: str) -> str:
    """The prompt, ended by a newline where neither side brings whitespace of its own."""
    return prompt if prompt[-1].isspace() or completion[0].isspace() else f"{prompt}\n"


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RowProblem(f"{name!r} is {_kind(value)}, not text")
    if not value.strip():
        raise RowProblem(f"{name!r} is empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            what = f"{name!r} holds half of a character (a lone surrogate)"
            raise RowProblem(what, "write the character whole, or remove it") from None
    return value


def _turns(value: Any, name: str) -> tuple[Turn, ...]:
    if isinstance(value, str):  # in a CSV file a conversation is JSON in a cell
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowProblem(f"{name!r} is text that is not a JSON list of messages") from None
    if not isinstance(value, list) or not value:
        raise RowProblem(f"{name!r} is {_kind(value)}, not a list of messages")
    turns = tuple(_turn(message, f"{name}[{index}]") for index, message in enumerate(value))
    if turns[-1].role != "assistant":
        what = f"ends with the {turns[-1].role}'s message: nothing after it is to be learned"
        raise RowProblem(what, "end it with the assistant's answer")
    if not any(turn.is_learned for turn in turns if turn.role == "assistant"):
        raise RowProblem("gives every assistant's message the weight 0: nothing is learned")
    return turns


def _turn(message: Any, name: str) -> Turn:
    if not isinstance(message, Mapping):
        raise RowProblem(f"{name} is {_kind(message)}, not a message with role and content")
    role = message.get("role", message.get("from"))
    known = ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        found = f"the role {role[:40]!r}" if isinstance(role, str) else "no role"
        raise RowProblem(f"{name} has {found}", f"use one of {', '.join(dict.fromkeys(ROLES))}")
    if message.get("tool_calls") or message.get("function_call"):
        what = f"{name} calls a tool, which no plan can train yet"
        raise RowProblem(what, "write the call out as text, or remove the example")
    content = message.get("content", message.get("value"))
    if known == "system" and content in (None, ""):  # many data sets leave it empty
        return Turn(known, "")
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise RowProblem(f"{name} has a weight other than 0 and 1")
    return Turn(known, _text(_plain(content, name), f"{name} content"), weight != 0)


def _plain(content: Any, name: str) -> Any:
    """The text of content that is written as a list of parts; anything else as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for part in content:
        is_text = isinstance(part, Mapping) and isinstance(part.get("text"), str)
        if not is_text:
            raise RowProblem(f"{name} holds a part that is not text", "leave images and audio out")
        texts.append(part["text"])
    return "".join(texts)


def printable(text: str) -> str:
    """Return text of a data file with control characters written out, so that they do nothing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", bool: "true or false", str: "text"}
    if value is None:
        return "missing"
    if isinstance(value, list) and not value:
        return "an empty list"
    return names.get(type(value), "a number" if isinstance(value, int | float) else "no text")
