"""From answers to axes and from axes to scores: sums that a reader can redo by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from advisor.answers import Answers, relevant_answers
from advisor.rules import (
    AXES,
    AXIS_MAX,
    Adjustment,
    Axis,
    Gate,
    Rule,
    Strategy,
    knowledge_base,
)

Factors = dict[str, float]
"""A factor for the points of each rule, by rule id, and for weights, by :func:`_weight_id`."""

NUM_DRAWS = 400
SEED = 0
SPREAD = 0.35
"""Standard deviation of a factor's logarithm: two in three factors lie within 0.7 to 1.4."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What applies under given answers: all that the scores follow from."""

    rules: tuple[Rule, ...]
    gates: tuple[Gate, ...]
    adjustments: dict[str, tuple[Adjustment, ...]]

    def blocks(self, strategy_id: str) -> list[Gate]:
        """Return the gates that forbid this strategy."""
        return [gate for gate in self.gates if gate.kind == "block" and gate.concerns(strategy_id)]

    def open_strategies(self) -> list[Strategy]:
        """Return the strategies that no gate blocks, simplest first."""
        return [one for one in knowledge_base().strategies if not self.blocks(one.id)]


def applied(answers: Answers) -> Applied:
    """Return the rules, gates and adjustments that apply under ``answers``.

    An answer that another one makes irrelevant is set aside.
    """
    base = knowledge_base()
    answers = relevant_answers(answers)
    return Applied(
        rules=tuple(rule for rule in base.rules if rule.applies(answers)),
        gates=tuple(gate for gate in base.gates if gate.applies(answers)),
        adjustments={
            strategy.id: tuple(a for a in strategy.adjustments if a.applies(answers))
            for strategy in base.strategies
        },
    )


def raw_axes(rules: Sequence[Rule], factors: Factors | None = None) -> dict[Axis, float]:
    """Return each axis's sum of points, before it is held within its range.

    Args:
        rules: The rules that apply.
        factors: A factor for each rule's points, by rule id.
    """
    sums: dict[Axis, float] = dict.fromkeys(AXES, 0.0)
    for rule in rules:
        sums[rule.axis] += rule.points * (factors[rule.rule] if factors else 1.0)
    return sums


def held_axes(sums: dict[Axis, float]) -> dict[Axis, float]:
    """Return the axes, each held within 0 and its maximum."""
    return {axis: round(min(max(value, 0.0), AXIS_MAX), 4) for axis, value in sums.items()}


def score(
    strategy: Strategy, found: Applied, axes: dict[Axis, float], factors: Factors | None = None
) -> float:
    """Return a strategy's score: its weighted axes, plus the adjustments that apply."""
    total = 0.0
    for axis, weight in strategy.weights.items():
        factor = factors.get(_weight_id(strategy, axis), 1.0) if factors else 1.0
        total += weight * factor * axes[axis]
    for one in found.adjustments[strategy.id]:
        total += one.points_at(axes) * (factors[one.rule] if factors else 1.0)
    return round(total, 4)


def best(
    candidates: Sequence[Strategy],
    found: Applied,
    axes: dict[Axis, float],
    factors: Factors | None = None,
) -> str:
    """Return the candidate with the highest score; of equals, the simplest."""
    return max(candidates, key=lambda one: score(one, found, axes, factors)).id


def top_strategy(answers: Answers) -> str:
    """Return the strategy to recommend under ``answers``, without the reasons."""
    found = applied(answers)
    return best(found.open_strategies(), found, held_axes(raw_axes(found.rules)))


def stability(found: Applied, top: str) -> float:
    """Return the share of redrawn points and weights under which ``top`` stays the best.

    The points of every rule and adjustment, and every weight of a strategy on an axis but those of
    1, are multiplied by a lognormal factor of their own, 400 times, with a fixed seed: it shows
    whether the advice hangs on the exact numbers. A weight of 1 is the unit that the others are
    written in: the need is the strategy's own, and its uncertainty that of the rules.
    """
    candidates = found.open_strategies()
    tops = [
        best(candidates, found, held_axes(raw_axes(found.rules, factors)), factors)
        for factors in _draws()
    ]
    return tops.count(top) / NUM_DRAWS


def _weight_id(strategy: Strategy, axis: Axis) -> str:
    return f"{strategy.id}: {axis}"


@cache
def _draws() -> tuple[Factors, ...]:
    generator = random.Random(SEED)
    base = knowledge_base()
    names = [rule.rule for rule in base.rules]
    names += [one.rule for strategy in base.strategies for one in strategy.adjustments]
    for strategy in base.strategies:
        weights = strategy.weights.items()
        names += [_weight_id(strategy, axis) for axis, weight in weights if weight != 1]
    return tuple(
        {name: generator.lognormvariate(0, SPREAD) for name in names} for _ in range(NUM_DRAWS)
    )
