"""What the advice rests on: rules, strategies, gates and their sources, read from data."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from pydantic import Field

from advisor.answers import Answers
from advisor.bundled import read_bundled
from estimator.records import Record

Axis = Literal["knowledge", "behaviour", "domain"]
Evidence = Literal["experiment", "guidance", "judgement"]

AXES: tuple[Axis, ...] = ("knowledge", "behaviour", "domain")
AXIS_MAX = 10.0
"""An axis is held within 0 and this, so that many small rules cannot outweigh everything."""
Method = Literal["full", "lora", "qlora", "hosted"]


class Source(Record):
    """Where a rule comes from, and what kind of evidence that is."""

    name: str
    url: str | None = None
    evidence: Evidence


class Counter(Record):
    """Published evidence that points the other way."""

    text: str
    source: Source


class Condition(Record):
    """Something that applies, or does not, under given answers.

    It applies when every line of ``when`` holds and not every line of ``unless`` does. A line
    holds when the answer is one of its values (for a list: when any chosen value is). A question
    that was not answered holds no line.
    """

    text: str
    source: Source
    when: dict[str, tuple[str, ...]] = Field({})
    unless: dict[str, tuple[str, ...]] = Field({})
    counter: tuple[Counter, ...] = ()

    def applies(self, answers: Answers) -> bool:
        """Return whether this applies under ``answers``."""
        if not _all_hold(self.when, answers):
            return False
        return not (self.unless and _all_hold(self.unless, answers))


def _all_hold(lines: dict[str, tuple[str, ...]], answers: Answers) -> bool:
    for question, values in lines.items():
        answer = answers.get(question)
        chosen = answer if isinstance(answer, list) else [answer]
        if not any(value in values for value in chosen):
            return False
    return True


class Rule(Condition):
    """Points that an answer adds to an axis."""

    rule: str
    axis: Axis
    points: float


class Adjustment(Condition):
    """Points that a strategy gets beside its weighted axes.

    Without ``axis`` they count once; with it, once for each point by which the axis lies above
    ``above``, or below ``below``.
    """

    rule: str
    points: float
    axis: Axis | None = None
    above: float | None = None
    below: float | None = None

    def points_at(self, axes: dict[Axis, float]) -> float:
        """Return the points at these axis values."""
        if self.axis is None:
            return self.points
        value = axes[self.axis]
        distance = value - self.above if self.above is not None else (self.below or 0.0) - value
        return self.points * max(0.0, distance)


class Strategy(Record):
    """A way to adapt a model, and how it is scored."""

    id: str
    title: str
    summary: str
    trains: bool
    first_step: str
    weights: dict[Axis, float]
    adjustments: tuple[Adjustment, ...]


class Gate(Condition):
    """What no score can outweigh. No ``strategies`` means all of them."""

    gate: str
    kind: Literal["block", "prerequisite", "note"]
    strategies: tuple[str, ...] = ()
    step: str | None = None

    def concerns(self, strategy_id: str) -> bool:
        """Return whether the gate is about this strategy."""
        return not self.strategies or strategy_id in self.strategies


class MethodChoice(Condition):
    """A fine-tuning method, and when it is the one to take."""

    method: Method
    strategies: tuple[str, ...] = ()


class Addon(Condition):
    """Something to add to whatever strategy is taken."""

    addon: str
    title: str


class KnowledgeBase(Record):
    """All of it, checked. Strategies stand in order of effort."""

    rules: tuple[Rule, ...]
    strategies: tuple[Strategy, ...]
    gates: tuple[Gate, ...]
    methods: tuple[MethodChoice, ...]
    smaller_methods: tuple[MethodChoice, ...]
    addons: tuple[Addon, ...]

    def strategy(self, strategy_id: str) -> Strategy:
        """Return the strategy with this id, which must exist."""
        return next(one for one in self.strategies if one.id == strategy_id)

    def gate(self, name: str) -> Gate:
        """Return the gate with this name, which must exist."""
        return next(one for one in self.gates if one.gate == name)


@cache
def knowledge_base() -> KnowledgeBase:
    """Return the rules, strategies and gates that the advice is made from."""
    rules = read_bundled("rules")
    document: dict[str, Any] = {
        "rules": [row | {"axis": axis} for axis in AXES for row in rules[axis]],
        **read_bundled("strategies"),
        **read_bundled("gates"),
    }
    return KnowledgeBase.model_validate(with_sources(document))


@cache
def sources() -> dict[str, Source]:
    """Return everything that the advice cites, by its short name."""
    return {name: Source(**row) for name, row in read_bundled("sources").items()}


def with_sources(value: Any) -> Any:
    """Return bundled data with each source in place of its short name."""
    if isinstance(value, list):
        return [with_sources(item) for item in value]
    if isinstance(value, dict):
        return {
            key: sources()[item] if key == "source" else with_sources(item)
            for key, item in value.items()
        }
    return value
