"""Conversations as the text a model sees, and which parts of it the assistant wrote.

The Jinja environment is the one transformers renders chat templates with, made here again so
that no torch is needed: sandboxed, with ``raise_exception``, ``tojson`` and ``strftime_now``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trainer.example_formats import Turn, printable

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role + ':\n' + message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)
"""What is used where a tokenizer has no chat template: role, text, and where an answer ends."""


_CONTENT = "CONTENT-OF-THE-TURN"  # stands for an answer, to find out what follows one


class TemplateProblem(ValueError):
    """A chat template that refuses a conversation, or that cannot be split into turns."""


class Rendered(NamedTuple):
    """A text, and the character ranges of it that are learned."""

    text: str
    learned: list[tuple[int, int]]


def render(turns: Sequence[Turn], template: str, special_tokens: Mapping[str, str]) -> Rendered:
    """Return a conversation's text, and where the assistant's turns lie in it.

    Where a turn begins and ends is found by rendering the conversation up to it and through it:
    a template needs no ``{% generation %}`` marks. A turn holds its end-of-turn token, and not
    the line break that follows it.

    Raises:
        TemplateProblem: The template refuses the conversation, or what it writes for the first
            turns changes with those that follow.
    """
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = _text(messages, template, special_tokens)
    learned = []
    for index, turn in enumerate(turns):
        if turn.role == "assistant" and turn.is_learned:
            start = _start(text, messages[:index], template, special_tokens)
            end = _end(text, start, messages[: index + 1], template, special_tokens)
            learned.append((start, end))
    return Rendered(text, learned)


def whole(turns: Sequence[Turn], template: str, special_tokens: Mapping[str, str]) -> str:
    """Return a conversation's text.

    Raises:
        TemplateProblem: The template refuses the conversation.
    """
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    return _text(messages, template, special_tokens)


def opening(turns: Sequence[Turn], template: str, special_tokens: Mapping[str, str]) -> str:
    """Return the text after which the assistant is to answer.

    Raises:
        TemplateProblem: The template refuses the conversation.
    """
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    return _text(messages, template, special_tokens, add_generation_prompt=True)


def _text(
    messages: list[dict[str, str]],
    template: str,
    special_tokens: Mapping[str, str],
    *,
    add_generation_prompt: bool = False,
) -> str:
    try:
        return _compiled(template).render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **special_tokens,
        )
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = printable(" ".join(str(error).split())[:200])
        raise TemplateProblem(f"the chat template refuses it ({reason})") from error


def _start(
    text: str, before: list[dict[str, str]], template: str, special_tokens: Mapping[str, str]
) -> int:
    """Where an assistant's turn begins: after the words that ask the model to answer."""
    prompt = _text(before, template, special_tokens, add_generation_prompt=True)
    if text.startswith(prompt):
        return len(prompt)
    # Some templates ask for an answer in other words than they write one: DeepSeek-R1's opens a
    # <think> that its answers do not keep.
    plain = _text(before, template, special_tokens)
    if text.startswith(plain):
        pairs = enumerate(zip(prompt, text, strict=False))
        return next((at for at, (one, other) in pairs if one != other), len(plain))
    raise _unsplittable()


def _end(
    text: str,
    start: int,
    through: list[dict[str, str]],
    template: str,
    special_tokens: Mapping[str, str],
) -> int:
    content = through[-1]["content"].strip()
    until = _text(through, template, special_tokens)
    if text.startswith(until):
        end = len(until)
        after = until.rfind(content, start) + len(content)
    else:
        # Some templates write a last answer otherwise than an earlier one: Qwen3's gives it an
        # empty <think>. What follows the content is then the same in both.
        marked = [*through[:-1], through[-1] | {"content": _CONTENT}]
        tail = _text(marked, template, special_tokens).rpartition(_CONTENT)[2]
        at = text.find(content, start)
        if at < 0 or text[start:at].strip() or not text.startswith(tail, at + len(content)):
            raise _unsplittable()
        after = at + len(content)
        end = after + len(tail)
    marker = text[max(after, start) : end]
    return end - (len(marker) - len(marker.rstrip())) if marker.strip() else end


def _unsplittable() -> TemplateProblem:
    return TemplateProblem(
        "the chat template cannot be split into turns: what it writes for the first ones changes "
        "with those that follow"
    )


class _Generation(Extension):
    """``{% generation %}`` marks, which only say what is found out here anyway."""

    tags = {"generation"}  # noqa: RUF012  as Jinja's base class declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what stands between the marks."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
