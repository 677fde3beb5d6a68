"""From answers to advice: a ranking, its reasons, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator

from advisor.answers import Answers, answered_share, parse_answers, relevant_answers
from advisor.flips import flips
from advisor.hosted import hosted_offers
from advisor.ladder import PREPARATION, Rung, climb
from advisor.methods import Memory, choose_method, read_memory
from advisor.questions import find_question
from advisor.recommendation import (
    Choice,
    Confidence,
    CounterEvidence,
    GateFound,
    Ranked,
    Reason,
    Recommendation,
    SetAside,
)
from advisor.rules import AXIS_MAX, Axis, Condition, Evidence, Method, Strategy, knowledge_base
from advisor.scoring import (
    NUM_DRAWS,
    SEED,
    Applied,
    applied,
    best,
    held_axes,
    raw_axes,
    score,
    stability,
)
from estimator.plan import FineTunePlan

__all__ = ["Recommendation", "recommend"]


def recommend(answers: Answers, plan: FineTunePlan | None = None) -> Recommendation:
    """Return the advice for a set of answers.

    The score of a strategy is the sum of its reasons. A strategy that a gate blocks keeps its
    score and is never recommended. An answer that is missing counts for nothing, and so does one
    that another answer makes irrelevant.

    Args:
        answers: What :func:`advisor.answers.parse_answers` accepts.
        plan: The scenario's plan; the method is chosen by whether it fits that plan's GPU.

    Raises:
        InputError: The answers are not valid.
    """
    given = parse_answers(answers)
    answers = relevant_answers(given)
    found = applied(answers)
    axis_reasons = _axis_reasons(found)
    axes = held_axes(raw_axes(found.rules))
    ranking = _ranking(found, axes, axis_reasons)
    top = knowledge_base().strategy(ranking[0].strategy)
    target = _target(found, axes)
    memory = read_memory(answers, plan) if top.trains or target.trains else None
    method, method_reason = _method(top, answers, memory)
    target_method, _ = _method(target, answers, memory)
    addons = [addon for addon in knowledge_base().addons if addon.applies(answers)]
    ladder = climb(answers, found, top.id, target.id)
    choice = Choice(
        strategy=top.id,
        method=method,
        addons=tuple(addon.addon for addon in addons),
        do_now=_next_step(ladder, fits=method is not None or not top.trains),
        target=target.id,
    )
    stays, answered = stability(found, top.id), answered_share(given)
    only_hosted = answers.get("weights") == "closed_only" and (top.trains or target.trains)
    return Recommendation(
        recommendation=choice,
        sentence=_sentence(choice, target_method, [addon.title for addon in addons]),
        method_reason=method_reason,
        target_method=target_method,
        memory=memory,
        hosted=hosted_offers() if only_hosted else (),
        addon_reasons=tuple(addon.text for addon in addons),
        ranking=ranking,
        axes=axes,
        axis_reasons=axis_reasons,
        gates=_gates(found, {top.id, target.id}),
        what_would_change=tuple(flips(given, top.id)),
        ladder=ladder,
        confidence=Confidence(
            stability=stays,
            num_draws=NUM_DRAWS,
            seed=SEED,
            answered=answered,
            evidence=_evidence(ranking[0]),
        ),
        stability=stays,
        answered=answered,
        set_aside=tuple(_set_aside(given)),
    )


def _set_aside(given: Answers) -> Iterator[SetAside]:
    for question_id in given:
        question = find_question(question_id)
        other_id = question.made_irrelevant_by(given)
        if other_id is not None:
            other = find_question(other_id)
            answer = f"“{other.text}” is answered “{other.label(given[other_id])}”"
            text = f"“{question.text}” does not count: {answer}."
            yield SetAside(question=question_id, because_of=other_id, text=text)


def _evidence(top: Ranked) -> dict[Evidence, float]:
    """The share of a score's points, whatever their sign, that each grade of evidence gives."""
    shares: dict[Evidence, float] = {"experiment": 0.0, "guidance": 0.0, "judgement": 0.0}
    total = sum(abs(reason.points) for reason in top.reasons) or 1.0
    for reason in top.reasons:
        shares[reason.evidence] += abs(reason.points) / total
    return {grade: round(share, 4) for grade, share in shares.items()}


def _reason(rule: str, axis: Axis | None, points: float, because: Condition) -> Reason:
    return Reason(
        rule=rule,
        axis=axis,
        points=round(points, 4),
        text=because.text,
        source=because.source.name,
        url=because.source.url,
        evidence=because.source.evidence,
        counter=tuple(
            CounterEvidence(
                text=one.text,
                source=one.source.name,
                url=one.source.url,
                evidence=one.source.evidence,
            )
            for one in because.counter
        ),
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
                trains=strategy.trains,
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


def _method(
    strategy: Strategy, answers: Answers, memory: Memory | None
) -> tuple[Method | None, str | None]:
    return choose_method(strategy.id, answers, memory) if strategy.trains else (None, None)


def _next_step(ladder: tuple[Rung, ...], *, fits: bool) -> str:
    """What the ladder's steps for now ask for, in its order; the last is the advice's own."""
    steps: list[str] = []
    for rung in ladder:
        if rung.when == "now":
            steps += (rung.what,) if rung.rung == PREPARATION else rung.steps
    *before, last = dict.fromkeys(steps)
    if not fits:
        before.append("Take a smaller model or a larger GPU: no method fits the one that there is.")
    return " ".join([*before, f"Then {last[0].lower()}{last[1:]}"]) if before else last


def _sentence(choice: Choice, target_method: Method | None, addons: list[str]) -> str:
    sentence = _with_method(choice.strategy, choice.method)
    for addon in addons:
        sentence += f", plus {addon[0].lower()}{addon[1:]}"
    if choice.target != choice.strategy:
        target = _with_method(choice.target, target_method)
        sentence += f"; work towards {target[0].lower()}{target[1:]}"
    return f"{sentence}."


def _with_method(strategy_id: str, method: Method | None) -> str:
    title = knowledge_base().strategy(strategy_id).title
    names = {"full": "with all weights", "lora": "with LoRA", "qlora": "with QLoRA"}
    return f"{title} {names.get(method, 'by a host')}" if method else title


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
