"""Whether a file can be handed to hosted fine-tuning as it is (OpenAI-style chat JSONL)."""

from __future__ import annotations

import functools
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

from estimator.documents import read_document
from estimator.records import Record
from trainer.examples import ExampleSource, Found

_RULES = Path(__file__).parent / "data" / "hosted.yaml"
_MAX_NAMED = 5


class HostedRules(Record):
    """What a hosted service takes, each rule with its source."""

    last_checked: date
    min_examples: int
    min_examples_source: str
    roles: tuple[str, ...]
    message_keys: tuple[str, ...]
    messages_source: str
    max_tokens_per_example: int
    max_tokens_source: str


class HostedVerdict(Record):
    """Whether a file is valid for hosted fine-tuning.

    Attributes:
        valid: Whether nothing speaks against it.
        reasons: What speaks against it.
        sources: Where the rules are from, and when they were looked up.
    """

    valid: bool
    reasons: tuple[str, ...]
    sources: tuple[str, ...]


@functools.cache
def hosted_rules() -> HostedRules:
    """Return the bundled rules."""
    return HostedRules.model_validate(read_document(_RULES))


class HostedCheck:
    """Looks at every row of a source, and then says whether a host would take the file."""

    def __init__(self, source: ExampleSource) -> None:
        """Begin with what the source as a whole tells."""
        self._wrong: dict[str, list[int]] = {}
        self._num_wrong: Counter[str] = Counter()
        kinds = {kind for _, kind in source.files}
        self._is_chat = source.columns.names == ("messages",) and kinds == {"jsonl"}
        self._num_examples = 0
        self._rules = hosted_rules()
        self._keys = frozenset(self._rules.message_keys)

    def look(self, found: Found) -> None:
        """Look at one row."""
        if not self._is_chat:
            return
        self._num_examples += 1
        if reason := self._reason(found.raw):
            self._num_wrong[reason] += 1
            if self._num_wrong[reason] <= _MAX_NAMED:
                self._wrong.setdefault(reason, []).append(found.number)

    def _reason(self, raw: dict[str, Any] | None) -> str:
        messages = raw.get("messages") if raw else None
        if not isinstance(messages, list) or not messages:
            return "no list of messages"
        if wrong := next(filter(None, map(self._wrong_message, messages)), ""):
            return wrong
        is_answer = messages[-1]["role"] == "assistant"
        return "" if is_answer else "a last message that is not the assistant's"

    def _wrong_message(self, message: Any) -> str:
        if not isinstance(message, dict):
            return "a message that is no mapping"
        if message.get("role") not in self._rules.roles:
            return f"a role other than {', '.join(self._rules.roles)}"
        if not self._keys.issuperset(message):
            return f"a key of a message other than {', '.join(self._rules.message_keys)}"
        calls = message.get("tool_calls") or message.get("function_call")
        content = message.get("content")
        has_content = isinstance(content, str | list) and content
        return "" if has_content or calls else "a message without content"

    def verdict(self, num_too_long: int) -> HostedVerdict:
        """Return what was found.

        Args:
            num_too_long: Examples of more tokens than a host trains on.
        """
        rules = self._rules
        reasons = []
        if not self._is_chat:
            reasons.append('it is not chat JSONL ({"messages": [...]} on each line)')
        elif self._num_examples < rules.min_examples:
            few = f"{self._num_examples} examples, and at least {rules.min_examples} are needed"
            reasons.append(few)
        for reason, lines in self._wrong.items():
            num = self._num_wrong[reason]
            named = ", ".join(map(str, lines)) + (", ..." if num > len(lines) else "")
            reasons.append(f"{reason}: {num:,} (line {named})")
        if num_too_long:
            limit = rules.max_tokens_per_example
            reasons.append(f"more than {limit:,} tokens, so cut there: {num_too_long:,} examples")
        sources = (rules.min_examples_source, rules.messages_source, rules.max_tokens_source)
        as_of = tuple(f"{source}, as of {rules.last_checked}" for source in sources)
        return HostedVerdict(valid=not reasons, reasons=tuple(reasons), sources=as_of)
