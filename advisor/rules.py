"""What the advice rests on: rules, strategies, gates and their sources, read from data."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from advisor.answers import Answers
from estimator.documents import read_document
from estimator.records import Record

Axis = Literal["knowledge", "behaviour", "domain"]
Evidence = Literal["experiment", "guidance", "judgement"]

AXES: tuple[Axis, ...] = ("knowledge", "behaviour", "domain")
AXIS_MAX = 10.0
"""An axis is held within 0 and this, so that many small rules cannot outweigh everything."""

_DATA = Path(__file__).with_name("data")


class Source(Record):
    """Where a rule comes from, and what kind of evidence that is."""

    name: str
    url: str | None
    evidence: Evidence


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

    method: Literal["full", "lora", "qlora"] | None
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
    addons: tuple[Addon, ...]

    def strategy(self, strategy_id: str) -> Strategy:
        """Return the strategy with this id, which must exist."""
        return next(one for one in self.strategies if one.id == strategy_id)


@cache
def knowledge_base() -> KnowledgeBase:
    """Return the rules, strategies and gates that the advice is made from."""
    sources = read_document(_DATA / "sources.yaml")
    rules = read_document(_DATA / "rules.yaml")
    document: dict[str, Any] = {
        "rules": [row | {"axis": axis} for axis in AXES for row in rules[axis]],
        **read_document(_DATA / "strategies.yaml"),
        **read_document(_DATA / "gates.yaml"),
    }
    return KnowledgeBase.model_validate(_with_sources(document, sources))


def _with_sources(value: Any, sources: dict[str, Any]) -> Any:
    """Put each source in place of its name."""
    if isinstance(value, list):
        return [_with_sources(item, sources) for item in value]
    if isinstance(value, dict):
        return {
            key: sources[item] if key == "source" else _with_sources(item, sources)
            for key, item in value.items()
        }
    return value
