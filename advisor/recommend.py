"""From answers to advice: a ranking, its reasons, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator

from advisor.answers import Answers, parse_answers
from advisor.flips import flips
from advisor.questions import questions
from advisor.recommendation import Choice, GateFound, Method, Ranked, Reason, Recommendation
from advisor.rules import AXIS_MAX, Axis, Condition, Strategy, knowledge_base
from advisor.scoring import Applied, applied, best, held_axes, raw_axes, score, stability

__all__ = ["Recommendation", "recommend"]


def recommend(answers: Answers) -> Recommendation:
    """Return the advice for a set of answers.

    The score of a strategy is the sum of its reasons. A strategy that a gate blocks keeps its
    score and is never recommended. An answer that is missing counts for nothing.

    Args:
        answers: What :func:`advisor.answers.parse_answers` accepts.

    Raises:
        InputError: The answers are not valid.
    """
    answers = parse_answers(answers)
    found = applied(answers)
    axis_reasons = _axis_reasons(found)
    axes = held_axes(raw_axes(found.rules))
    ranking = _ranking(found, axes, axis_reasons)
    top = knowledge_base().strategy(ranking[0].strategy)
    target = _target(found, axes)
    method, method_reason = _method(target, answers)
    addons = [addon for addon in knowledge_base().addons if addon.applies(answers)]
    choice = Choice(
        strategy=top.id,
        method=method if top.trains else None,
        addons=tuple(addon.addon for addon in addons),
        do_now=_next_step(found, top, target),
        target=target.id,
    )
    return Recommendation(
        recommendation=choice,
        sentence=_sentence(choice, [addon.title for addon in addons]),
        method_reason=method_reason if top.trains else None,
        addon_reasons=tuple(addon.text for addon in addons),
        ranking=ranking,
        axes=axes,
        axis_reasons=axis_reasons,
        gates=_gates(found, {top.id, target.id}),
        what_would_change=tuple(flips(answers, top.id)),
        stability=stability(found, top.id),
        answered=len(answers) / len(questions()),
    )


def _reason(rule: str, axis: Axis | None, points: float, because: Condition) -> Reason:
    return Reason(
        rule=rule,
        axis=axis,
        points=round(points, 4),
        text=because.text,
        source=because.source.name,
        url=because.source.url,
        evidence=because.source.evidence,
    )


def _axis_reasons(found: Applied) -> tuple[Reason, ...]:
    """The rules that apply, and a line where holding an axis within its range changes its sum."""
    reasons = [_reason(rule.rule, rule.axis, rule.points, rule) for rule in found.rules]
    sums = raw_axes(found.rules)
    for axis, value in held_axes(sums).items():
        if change := round(value - sums[axis], 4):
            reasons.append(
                Reason(
                    rule="range",
                    axis=axis,
                    points=change,
                    text=f"An axis is held within 0 and {AXIS_MAX:g}.",
                    source="tuneplan's own judgement",
                    url=None,
                    evidence="judgement",
                )
            )
    return tuple(sorted(reasons, key=lambda reason: reason.axis or ""))


def _ranking(
    found: Applied, axes: dict[Axis, float], axis_reasons: tuple[Reason, ...]
) -> tuple[Ranked, ...]:
    ranked = []
    for strategy in knowledge_base().strategies:
        reasons = [*_weighted(strategy, axis_reasons), *_adjusted(found, strategy, axes)]
        ranked.append(
            Ranked(
                strategy=strategy.id,
                title=strategy.title,
                summary=strategy.summary,
                score=score(strategy, found, axes),
                blocked=" ".join(gate.text for gate in found.blocks(strategy.id)) or None,
                reasons=tuple(reasons),
            )
        )
    return tuple(sorted(ranked, key=lambda one: (one.blocked is not None, -one.score)))


def _weighted(strategy: Strategy, axis_reasons: tuple[Reason, ...]) -> Iterator[Reason]:
    for reason in axis_reasons:
        weight = strategy.weights.get(reason.axis) if reason.axis else None
        if weight is not None:
            yield reason.model_copy(
                update={
                    "points": round(reason.points * weight, 4),
                    "axis_points": reason.points,
                    "weight": weight,
                }
            )


def _adjusted(found: Applied, strategy: Strategy, axes: dict[Axis, float]) -> Iterator[Reason]:
    for one in found.adjustments[strategy.id]:
        points = one.points_at(axes)
        if not points:
            continue
        reason = _reason(one.rule, one.axis, points, one)
        if one.axis:
            side = f"above {one.above:g}" if one.above is not None else f"below {one.below:g}"
            how = f"{one.points:+g} for each point of {one.axis} {side}"
            reason = reason.model_copy(update={"text": f"{one.text} ({how})"})
        yield reason


def _target(found: Applied, axes: dict[Axis, float]) -> Strategy:
    """The best strategy that is open, or blocked only by work that a step describes."""
    base = knowledge_base()
    within_reach = [s for s in base.strategies if all(gate.step for gate in found.blocks(s.id))]
    return base.strategy(best(within_reach, found, axes))


def _method(target: Strategy, answers: Answers) -> tuple[Method | None, str | None]:
    if not target.trains:
        return None, None
    choice = next(
        one
        for one in knowledge_base().methods
        if one.applies(answers) and (not one.strategies or target.id in one.strategies)
    )
    return choice.method, choice.text


def _next_step(found: Applied, top: Strategy, target: Strategy) -> str:
    """What comes before the target: prerequisites, then the work that lifts its blocks."""
    wanted = (top.id, target.id)
    steps = [gate.step for gate in found.gates if gate.step and any(map(gate.concerns, wanted))]
    return " ".join(steps) or top.first_step


def _sentence(choice: Choice, addons: list[str]) -> str:
    titles = {strategy.id: strategy.title for strategy in knowledge_base().strategies}
    names = {"full": "all weights", "lora": "LoRA", "qlora": "QLoRA", None: ""}
    sentence = titles[choice.strategy]
    if choice.method:
        sentence += f" with {names[choice.method]}"
    for addon in addons:
        sentence += f", plus {addon[0].lower()}{addon[1:]}"
    if choice.target != choice.strategy:
        sentence += f"; work towards {titles[choice.target][0].lower()}{titles[choice.target][1:]}"
    return f"{sentence}."


def _gates(found: Applied, wanted: set[str]) -> tuple[GateFound, ...]:
    """Every block, and what else there is to know about the strategies that are wanted."""
    return tuple(
        GateFound(
            gate=gate.gate,
            kind=gate.kind,
            strategies=gate.strategies,
            text=gate.text,
            step=gate.step,
            source=gate.source.name,
            url=gate.source.url,
            evidence=gate.source.evidence,
        )
        for gate in found.gates
        if gate.kind == "block" or any(map(gate.concerns, wanted))
    )
