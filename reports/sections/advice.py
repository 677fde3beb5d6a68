"""Why this is the advice, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator

from advisor.answers import Answers
from advisor.questions import find_question
from advisor.recommendation import CounterEvidence, Flip, GateFound, Ranked, Reason, Recommendation
from advisor.rules import knowledge_base
from advisor.scoring import SPREAD
from reports.blocks import (
    Block,
    Bullets,
    Chart,
    Details,
    Heading,
    Paragraph,
    Part,
    Span,
    Table,
    Text,
    bullets,
    link,
    note,
    strong,
)
from reports.build import Report
from reports.charts import decision_map
from reports.charts_bars import score_chart

_GRADES = {
    "experiment": "published experiments",
    "guidance": "vendors' guidance",
    "judgement": "our own judgement",
}
_AXES = (
    ("knowledge", "facts that the model has to be given"),
    ("behaviour", "ways of acting that it has to learn"),
    ("domain", "a field that its pre-training does not cover"),
)


def why(report: Report) -> list[Block]:
    """Return the reasons, the conditions, the ranking and how sure it is."""
    advice = report.recommendation
    if advice is None:
        return []
    top = advice.ranking[0]
    told = (top.summary, advice.method_reason, *advice.addon_reasons)
    return [
        Paragraph(" ".join(part for part in told if part)),
        *bullets([f"{offer.sentence} ", link("source", offer.source)] for offer in advice.hosted),
        Heading(f"Why {top.title[0].lower()}{top.title[1:]}"),
        _reasons(top),
        *_gates(advice),
        *_methods(advice),
        *_ranking(advice, report.scenario.answers),
        Heading("How sure is that"),
        Bullets(list(_confidence(advice))),
    ]


def _reasons(ranked: Ranked) -> Table:
    rows: list[list[Text]] = [
        [reason.rule, list(_reason(reason)), _source(reason), points(reason.points)]
        for reason in ranked.reasons
    ]
    rows.append(["", "Score: the sum of the lines above", "", points(ranked.score)])
    return Table(
        f"The reasons that {ranked.title} scores {points(ranked.score)}",
        ("Rule", "Reason", "From", "Points"),
        rows,
        numbers=frozenset({3}),
        sums=frozenset({len(rows) - 1}),
    )


def _reason(reason: Reason) -> Iterator[Part]:
    yield reason.text
    if reason.axis_points is not None and reason.weight not in (None, 1):
        how = f"{reason.axis}: {points(reason.axis_points)} x {reason.weight:g}"
        yield note(f" {how[0].upper()}{how[1:]}")
    for one in reason.counter:
        yield strong(" But: ")
        yield f"{one.text} "
        yield from _source(one)


def points(value: float) -> str:
    """Return a signed number of points, to the digits it has."""
    return f"{value:+.7g}".replace("-", "\N{MINUS SIGN}")


def _source(found: Reason | CounterEvidence | GateFound) -> list[Part]:
    return [link(found.source, found.url), note(f" ({found.evidence})")]


def _gates(advice: Recommendation) -> list[Block]:
    if not advice.gates:
        return []
    titles = {one.id: one.title for one in knowledge_base().strategies}
    rows: list[list[Text]] = [
        [
            [Span(gate.kind, "no" if gate.kind == "block" else "strong"), note(f" {gate.gate}")],
            [gate.text, *([strong(f" {gate.step}")] if gate.step else [])],
            ", ".join(titles[one] for one in gate.strategies) or "every strategy",
            _source(gate),
        ]
        for gate in advice.gates
    ]
    table = Table("Gates that apply", ("Gate", "What applies", "To", "From"), rows)
    return [Heading("Gates: what no score can outweigh"), table]


def _methods(advice: Recommendation) -> list[Block]:
    """Return which method fits, where a strategy that trains is open."""
    if advice.memory is None or not any(one.trains for one in advice.ranking if not one.blocked):
        return []
    texts = [one.text for one in advice.memory.verdicts]
    return [Heading("Which method trains it"), Bullets(texts)]


def _ranking(advice: Recommendation, answers: Answers) -> Iterator[Block]:
    yield Heading("Ranking")
    scores = [
        (one.title, points(one.score), one.score, one.blocked is not None) for one in advice.ranking
    ]
    spoken = "; ".join(f"{title} {score}" for title, score, *_ in scores)
    yield Chart("row_chart", score_chart(scores), f"Scores: {spoken}")
    rows = []
    for place, one in enumerate(advice.ranking):
        verdict: list[Part] = [one.summary]
        if one.blocked:
            verdict = [Span("Ruled out. ", "no"), one.blocked]
        elif place == 0:
            verdict = [Span("Recommended. ", "yes"), one.summary]
        rows.append([strong(one.title), points(one.score), verdict])
    yield Table("Strategies by score", ("Strategy", "Score", "Verdict"), rows, frozenset({1}))
    needs = {name: f"{value:g}" for name, value in advice.axes.items()}
    label = (
        f"Behaviour {needs['behaviour']} of 10 and knowledge {needs['knowledge']} of 10, on a map "
        "of which strategy wins where"
    )
    caption = (
        "What would be recommended at other needs, all other answers as they are. Strategies that "
        "are ruled out take no part."
    )
    yield Chart("decision_map", decision_map(answers, advice.axes), label, caption)
    yield Table(
        "Three needs, from 0 to 10",
        ("Need", "0 to 10", "What it is"),
        [(strong(name.capitalize()), needs[name], what) for name, what in _AXES],
        frozenset({1}),
    )
    yield Paragraph(
        "Each rule adds points to one need, or to a strategy itself. A strategy's score is the sum "
        "of its weighted needs and its own points, line by line."
    )
    for one in advice.ranking[1:]:
        yield Details(f"How {one.title} scores {points(one.score)}", [_reasons(one)])


def _confidence(advice: Recommendation) -> Iterator[str]:
    sure = advice.confidence
    how = f" Each factor is lognormal, with a spread of {SPREAD}." if sure.answered else ""
    yield f"{sure.sentence}{how}"
    yield f"{_share(sure.answered)} of the questions that matter are answered."
    shares = sure.evidence.items()
    told = [f"{_share(share)} on {_GRADES[grade]}" for grade, share in shares if share]
    yield f"Of its points, {', '.join(told) or 'none'} rest."


def _share(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


def changes(report: Report) -> list[Block]:
    """Return what would change the advice, the ladder, and the answers that it rests on."""
    advice = report.recommendation
    if advice is None:
        return []
    return [
        *_flips(advice),
        Heading("The ladder"),
        Paragraph("What is done, what to do now, and the evidence that moves you up a step."),
        _ladder(advice),
        *bullets(f"Set aside: {one.text}" for one in advice.set_aside),
        _answers(report.scenario.answers),
    ]


def _flips(advice: Recommendation) -> list[Block]:
    if not advice.what_would_change:
        return [Paragraph("No single answer, given otherwise, would change it.")]
    titles = {one.id: one.title for one in knowledge_base().strategies}
    rows = [
        (find_question(flip.question).text, *_changed(flip), titles[flip.strategy])
        for flip in advice.what_would_change
    ]
    return [
        Paragraph("Each line changes one answer and leaves all others as they are."),
        Table("Answers that change the advice", ("Question", "Now", "Changed to", "Advice"), rows),
    ]


def _changed(flip: Flip) -> tuple[str, str]:
    """What a flip changes, in words: the answer now, and the one it would be."""
    question = find_question(flip.question)
    if not question.many:
        return question.label(flip.from_), question.label(flip.to)
    before, after = set(flip.from_ or ()), set(flip.to)
    changed = question.label([value for value in question.values if value in before ^ after])
    return ("chosen", f"without “{changed}”") if before > after else ("open", f"with “{changed}”")


def _ladder(advice: Recommendation) -> Table:
    rows: list[list[Text]] = []
    for rung in advice.ladder:
        what: list[Part] = [rung.what, *(strong(f" {step}") for step in rung.steps)]
        if rung.when == "later":
            what = [rung.evidence, *(strong(f" {step}") for step in rung.missing)]
        rows.append([rung.when, strong(rung.title), what, link(rung.source, rung.url)])
    head = ("When", "Step", "What, or on what evidence", "From")
    return Table("The ladder of steps", head, rows)


def _answers(answers: Answers) -> Details:
    rows = [
        (find_question(id_).text, find_question(id_).label(one)) for id_, one in answers.items()
    ]
    table = Table("Answers to the questionnaire", ("Question", "Answer"), rows)
    return Details("The answers that this rests on", [table])
