"""Training data for another trainer: split as tuneplan splits it, in the columns it reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from estimator.plan import Schedule
from estimator.problems import InputError, Problem
from trainer.example_formats import Example, Turn
from trainer.examples import ExampleSource, is_on_hub, open_examples
from trainer.split import Split

Kind = Literal["answer", "chat", "prompt_completion", "text"]
"""answer: conversations of which the last message alone is learned; chat: others."""


@dataclass(frozen=True, slots=True)
class RecipeData:
    """What a recipe trains on.

    Attributes:
        kind: How an example is written.
        source: A file's examples, to be written out; None for a Hub dataset or a placeholder.
        hub: The Hub's dataset, ``owner/name``; with its configuration and split.
        hub_config: Its configuration, where one is named.
        hub_split: Its split.
        has_unlearned: Whether an assistant's message is not to be learned.
    """

    kind: Kind
    source: ExampleSource | None = None
    hub: str = ""
    hub_config: str = ""
    hub_split: str = "train"
    has_unlearned: bool = False

    @property
    def is_conversation(self) -> bool:
        """Whether examples go through a chat template."""
        return self.kind in ("answer", "chat")

    @property
    def is_placeholder(self) -> bool:
        """Whether nobody has said what to train on."""
        return self.source is None and not self.hub


_KINDS: dict[str, Kind] = {
    "auto": "chat",
    "chat": "chat",
    "instruction": "chat",
    "prompt_completion": "prompt_completion",
    "text": "text",
}


def find_data(path: str | None, format: str) -> RecipeData:  # noqa: A002  the plan's key
    """Return what a recipe trains on, by what a person called it.

    Args:
        path: A data file, ``owner/name[:config[/split]]`` on the Hub, or None.
        format: The plan's ``data.format``.

    Raises:
        InputError: The file cannot be used; every broken row is listed, up to a limit.
    """
    named = _KINDS[format]
    if path is None:
        return RecipeData(named)
    if is_on_hub(path):
        name, _, rest = path.partition(":")
        config, _, split = rest.partition("/")
        return RecipeData(named, hub=name, hub_config=config, hub_split=split or "train")
    source = open_examples(path, format)
    return _looked_through(source)


def _looked_through(source: ExampleSource) -> RecipeData:
    """Read every example once: what is wrong shows before anything is written."""
    last_alone, unlearned = True, False
    for example in source:
        for turn in example.turns[:-1]:
            last_alone &= turn.role != "assistant" or not turn.is_learned
        unlearned |= any(one.role == "assistant" and not one.is_learned for one in example.turns)
    form = source.format
    if form in ("chat", "instruction"):
        return RecipeData(
            "answer" if last_alone else "chat", source, has_unlearned=unlearned and not last_alone
        )
    return RecipeData("text" if form == "text" else "prompt_completion", source)


def write_data(data: RecipeData, style: str, schedule: Schedule, folder: Path) -> dict[str, int]:
    """Write a file's examples as ``train.jsonl`` and ``validation.jsonl``, and count them.

    Which examples are held out is tuneplan's own choice, by content and seed.

    Args:
        data: With a source.
        style: Whose columns: trl, axolotl, llama-factory or tuneplan.
        schedule: Tells the share that is held out.
        folder: Where to; it is there.

    Raises:
        InputError: There is no room, or nothing to hold out where something is to be.
    """
    if data.source is None:
        return {}
    split = Split.of(schedule)
    counts = _write_split(data, data.source, style, split, folder)
    mended = split.mended()
    if mended:
        counts = _write_split(data, data.source, style, mended, folder)
    if not counts["validation"]:
        if schedule.validation_fraction:
            what = "has too few different examples to hold any out"
            fix = "add some, or --set schedule.validation_fraction=0"
            raise InputError(Problem(data.source.name, what, fix=fix))
        (folder / "validation.jsonl").unlink()
    return counts


def _write_split(
    data: RecipeData, source: ExampleSource, style: str, split: Split, folder: Path
) -> dict[str, int]:
    counts = {"train": 0, "validation": 0}
    try:
        with (
            _open(folder / "train.jsonl") as train,
            _open(folder / "validation.jsonl") as validation,
        ):
            for example in source:
                side = split.side(example)
                stream = train if side == "train" else validation
                row = _row(example, data.kind, style)
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                counts[side] += 1
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise InputError(Problem(str(folder), what, fix="make room, or name another")) from error
    return counts


def _open(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="\n")


def _row(example: Example, kind: Kind, style: str) -> dict[str, Any]:
    if kind == "text":
        return {"text": example.completion}
    if kind == "prompt_completion":
        return {"prompt": example.prompt, "completion": example.completion}
    messages = list(_messages(example.turns, style))
    if kind == "answer" and style == "trl":
        return {"prompt": messages[:-1], "completion": messages[-1:]}
    return {"messages": messages}


def _messages(turns: tuple[Turn, ...], style: str) -> Iterator[dict[str, Any]]:
    for turn in turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if style == "axolotl" and turn.role == "assistant":
            message["train"] = turn.is_learned
        if style == "tuneplan" and not turn.is_learned:
            message["weight"] = 0
        yield message
