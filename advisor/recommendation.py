"""What the advice is: plain records, from the sentence down to each line of each sum."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from advisor.rules import Axis, Evidence
from estimator.records import Record

Method = Literal["full", "lora", "qlora"]


class Reason(Record):
    """One line of a sum.

    ``points`` is what it adds. Where it comes from an axis, ``axis_points`` times ``weight`` is
    ``points``.
    """

    rule: str
    axis: Axis | None
    points: float
    text: str
    source: str
    url: str | None
    evidence: Evidence
    axis_points: float | None = None
    weight: float | None = None


class Ranked(Record):
    """A strategy, its score, and the reasons that sum to it."""

    strategy: str
    title: str
    summary: str
    score: float
    blocked: str | None
    reasons: tuple[Reason, ...]


class GateFound(Record):
    """A gate that applies to the answers."""

    gate: str
    kind: Literal["block", "prerequisite", "note"]
    strategies: tuple[str, ...]
    text: str
    step: str | None
    source: str
    url: str | None
    evidence: Evidence


class Flip(Record):
    """One answer that, changed by itself, changes the recommended strategy."""

    question: str
    from_: str | list[str] | None = Field(serialization_alias="from")
    to: str | list[str]
    strategy: str
    text: str


class Choice(Record):
    """The advice itself.

    ``strategy`` has the highest score of those that no gate blocks. ``target`` is the one to work
    towards: it differs where the best is blocked only by work that can be done, such as
    collecting examples. ``do_now`` is the next step, in words.
    """

    strategy: str
    method: Method | None
    addons: tuple[str, ...]
    do_now: str
    target: str


class Recommendation(Record):
    """The advice, and everything it rests on."""

    recommendation: Choice
    sentence: str
    method_reason: str | None
    addon_reasons: tuple[str, ...]
    ranking: tuple[Ranked, ...]
    axes: dict[Axis, float]
    axis_reasons: tuple[Reason, ...]
    gates: tuple[GateFound, ...]
    what_would_change: tuple[Flip, ...]
    stability: float
    answered: float

    def to_document(self) -> dict[str, Any]:
        """Return the recommendation as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)
