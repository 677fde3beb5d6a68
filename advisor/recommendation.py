"""What the advice is: plain records, from the sentence down to each line of each sum."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from advisor.data_signals import Suggestion
from advisor.hosted import HostedOffer
from advisor.ladder import Rung
from advisor.methods import Memory
from advisor.rules import Axis, Evidence, Method
from estimator.records import Record


class CounterEvidence(Record):
    """Something published that points the other way."""

    text: str
    source: str
    url: str | None
    evidence: Evidence


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
    counter: tuple[CounterEvidence, ...] = ()


class Ranked(Record):
    """A strategy, its score, and the reasons that sum to it."""

    strategy: str
    title: str
    summary: str
    trains: bool
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


class SetAside(Record):
    """An answer that another one makes irrelevant, and that therefore counts for nothing."""

    question: str
    because_of: str
    text: str


class Confidence(Record):
    """How far the advice can be trusted, as three things that are no one percentage.

    ``stability`` is the share of ``num_draws`` redrawn sets of points and weights (with ``seed``)
    under which the strategy stays the best, ``answered`` the share of the questions that matter.
    ``evidence`` tells what the winning score rests on: the share of its points, whatever their
    sign, by the grade of their sources.
    """

    stability: float
    num_draws: int
    seed: int
    answered: float
    evidence: dict[Evidence, float]

    @property
    def sentence(self) -> str:
        """What ``stability`` says, in words; where nothing is answered it says nothing."""
        if not self.answered:
            return "Nothing is answered yet, so no draw can tell how stable the advice is."
        share = f"{self.stability:.0%}".replace("%", " %")
        redrawn = "the rules' points and the strategies' weights are redrawn"
        return f"It stays the advice in {share} of {self.num_draws} draws, in which {redrawn}."


class Choice(Record):
    """The advice itself.

    ``strategy`` has the highest score of those that no gate blocks. ``target`` is the one to work
    towards: it differs where the best is blocked only by work that can be done, such as
    collecting examples. ``method`` is how to train, where the strategy trains; None where no
    method fits the GPU. ``do_now`` is the next step, in words.
    """

    strategy: str
    method: Method | None
    addons: tuple[str, ...]
    do_now: str
    target: str


class Recommendation(Record):
    """The advice, and everything it rests on.

    ``target_method`` is how to train the target. ``memory`` is None where nothing is to be
    trained, or no GPU is known.
    """

    recommendation: Choice
    sentence: str
    method_reason: str | None
    target_method: Method | None
    memory: Memory | None
    hosted: tuple[HostedOffer, ...]
    addon_reasons: tuple[str, ...]
    ranking: tuple[Ranked, ...]
    axes: dict[Axis, float]
    axis_reasons: tuple[Reason, ...]
    gates: tuple[GateFound, ...]
    what_would_change: tuple[Flip, ...]
    ladder: tuple[Rung, ...]
    confidence: Confidence
    stability: float
    answered: float
    set_aside: tuple[SetAside, ...]
    suggestions: tuple[Suggestion, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Return the recommendation as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)
