"""What can be wrong with training data, and the notes taken while it is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.data_report import Finding, FindingKind

MAX_NAMED = 20
"""How many rows of a kind are named; the others are counted."""

_WORDS: dict[FindingKind, tuple[bool, str, str]] = {
    "broken": (True, "rows that are no example", "correct or remove them: training refuses them"),
    "roles": (True, "conversations whose roles are out of order", "put the messages in order"),
    "refused_by_template": (
        True,
        "conversations that the model's chat template refuses",
        "correct them: training refuses them",
    ),
    "nothing_learned": (
        True,
        "examples whose answer lies beyond seq_len, so nothing is learned from them",
        "raise seq_len, or shorten their prompts",
    ),
    "too_long": (True, "examples longer than seq_len, so cut there", "raise seq_len, or split"),
    "duplicate": (True, "examples that say the same as an earlier one", "remove them"),
    "leak": (
        True,
        "validation examples that are trained on as well",
        "remove them from one side: the validation loss would look too good",
    ),
    "control_tokens": (
        False,
        "examples whose text holds what the tokenizer reads as a control token",
        "remove it, unless it is meant: it can forge the end of a turn",
    ),
    "control_characters": (False, "examples that hold control characters", "remove them"),
}


@dataclass(slots=True)
class Notes:
    """Findings as they come in: all are counted, and the first are named."""

    rows: dict[FindingKind, list[tuple[str, str]]] = field(default_factory=dict)
    num: dict[FindingKind, int] = field(default_factory=dict)

    def add(self, kind: FindingKind, where: str, what: str = "") -> None:
        """Note that a row has something, and what is special about it."""
        self.num[kind] = self.num.get(kind, 0) + 1
        named = self.rows.setdefault(kind, [])
        if len(named) < MAX_NAMED:
            named.append((where, what))

    def findings(self) -> tuple[Finding, ...]:
        """Return what was noted, that which hurts first."""
        return tuple(
            Finding(
                kind=kind,
                hurts=hurts,
                num=self.num[kind],
                what=what,
                rows=tuple(self.rows[kind]),
                fix=fix,
            )
            for kind, (hurts, what, fix) in _WORDS.items()
            if kind in self.num
        )
