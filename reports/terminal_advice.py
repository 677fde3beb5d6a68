"""The advice on a terminal: what to do, the sums behind it, and what would change it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from advisor.data_signals import Suggestion
from advisor.learn import topics_for
from advisor.questions import find_question
from advisor.recommendation import Flip, Ranked, Reason, Recommendation

_GRADES = {
    "experiment": "measured studies",
    "guidance": "vendors' guidance",
    "judgement": "our own judgement",
}


def advice(found: Recommendation) -> RenderableType:
    """Show what to do, why, every strategy's sum, and what would change the advice."""
    return Group(
        *_choice(found),
        _ranking(found),
        *_why(found.ranking[0]),
        *_sums(found),
        *_lines("Conditions", _gates(found)),
        *_lines("The ladder", _ladder(found)),
        *_lines("What would change the advice", _flips(found.what_would_change)),
        *_lines(
            "Your examples suggest (nothing is changed by it)", _suggestions(found.suggestions)
        ),
        *_lines("Set aside", (("-", one.text) for one in found.set_aside)),
        *_confidence(found),
    )


def points(value: float) -> str:
    """Return points with all the digits that they have, so that they add up as printed."""
    return f"{value:+.7g}"


def _choice(found: Recommendation) -> Iterator[RenderableType]:
    yield Text(found.sentence, style="bold")
    yield Text(f"First: {found.recommendation.do_now}")
    yield from (Text(reason) for reason in (found.method_reason, *found.addon_reasons) if reason)
    yield from (Text(f"  {offer.sentence}") for offer in found.hosted)


def _ranking(found: Recommendation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("strategy")
    table.add_column("score", justify="right")
    table.add_column("")
    for ranked in found.ranking:
        words = f"blocked: {ranked.blocked}" if ranked.blocked else ranked.summary
        table.add_row(ranked.title, points(ranked.score), escape(words))
    return table


def _why(best: Ranked) -> Iterator[RenderableType]:
    yield Text(f"Why {best.title[0].lower()}{best.title[1:]}", style="bold")
    yield _points(_reasons(best))


def _reasons(ranked: Ranked) -> Iterator[tuple[str, str]]:
    for reason in ranked.reasons:
        how = reason.rule
        if reason.axis_points is not None and reason.weight not in (None, 1):
            how += f" = {points(reason.axis_points)} x {reason.weight:g}"
        yield points(reason.points), f"{reason.text} ({how}; {reason.source})"
        for counter in reason.counter:
            yield "", f"But: {counter.text} ({counter.source})"
    yield points(ranked.score), "is the sum."


def _sums(found: Recommendation) -> Iterator[RenderableType]:
    yield Text("")
    yield Text("How every score is made", style="bold")
    for ranked in found.ranking:
        terms = " ".join(f"{points(one.points)} {_name(one)}" for one in ranked.reasons) or "0"
        yield Text(f" {ranked.title}: {terms} = {points(ranked.score)}")


def _name(reason: Reason) -> str:
    return f"{reason.rule}-{reason.axis}" if reason.rule == "range" else reason.rule


def _gates(found: Recommendation) -> Iterator[tuple[str, str]]:
    for gate in found.gates:
        if gate.kind != "block":
            yield gate.kind, f"{gate.text} ({gate.source})"
    if found.memory:
        for one in found.memory.verdicts:
            yield "blocked" if one.blocked else "memory", one.text


def _ladder(found: Recommendation) -> Iterator[tuple[str, str]]:
    for rung in found.ladder:
        if rung.when == "later":
            work = " ".join(("", *rung.missing))
            yield "later", f"{rung.title}, when: {rung.evidence}{work} ({rung.source})"
        else:
            yield rung.when, f"{rung.title}. {rung.what}" if rung.when == "now" else rung.title


def _flips(flips: Iterable[Flip]) -> Iterator[tuple[str, str]]:
    """Every flip; those of one question that lead to one strategy stand together."""
    for (question_id, _), group in groupby(flips, lambda one: (one.question, one.strategy)):
        question, together = find_question(question_id), list(group)
        if question.many or len(together) == 1:
            yield from (("-", one.text) for one in together)
            continue
        labels = " or ".join(f"“{question.label(one.to)}”" for one in together)
        yield "-", f"{question.text} {labels}{together[0].text.rpartition('”')[2]}"


def _suggestions(suggestions: Iterable[Suggestion]) -> Iterator[tuple[str, str]]:
    for one in suggestions:
        question = find_question(one.question)
        told = {None: "not answered yet", True: "as you answered", False: "you answered otherwise"}
        answer = f"{one.question}: {one.answer} (“{dict(question.choices)[one.answer]}”)"
        yield "-", f"{answer}, {told[one.agrees]}. {one.evidence} {one.because}"


def _confidence(found: Recommendation) -> Iterator[RenderableType]:
    sure = found.confidence
    shares = ", ".join(
        f"{_share(share)} {_GRADES[grade]}" for grade, share in sure.evidence.items() if share
    )
    yield from _lines(
        "How sure is that",
        (
            ("-", sure.sentence),
            ("-", f"{_share(sure.answered)} of the questions that matter are answered."),
            ("-", f"Its points rest on: {shares or 'nothing'}."),
        ),
    )
    words = " ".join(topics_for(found.recommendation.strategy, found.recommendation.method))
    yield Text(f"The words are explained by: tuneplan learn TOPIC ({words})", style="dim")


def _share(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


def _lines(heading: str, rows: Iterable[tuple[str, str]]) -> Iterator[RenderableType]:
    rows = list(rows)
    if rows:
        yield Text("")
        yield Text(heading, style="bold")
        yield _points(rows)


def _points(rows: Iterable[tuple[str, str]]) -> Table:
    """Lines with a hanging indent after their mark."""
    table = Table(box=None, show_header=False, pad_edge=True, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    for mark, text in rows:
        table.add_row(mark, Text(text))
    return table
