"""What would change the advice: every single answer that, given otherwise, does."""

from __future__ import annotations

from collections.abc import Iterator

from advisor.answers import Answers
from advisor.questions import Question, questions
from advisor.recommendation import Flip
from advisor.rules import knowledge_base
from advisor.scoring import top_strategy


def flips(answers: Answers, top: str) -> Iterator[Flip]:
    """Every single change of one answer that changes the strategy."""
    for question in questions():
        current = answers.get(question.id)
        for value in _other_answers(question, current):
            strategy = top_strategy(answers | {question.id: value})
            if strategy != top:
                yield Flip(
                    question=question.id,
                    from_=current,
                    to=value,
                    strategy=strategy,
                    text=_text(question, current, value, strategy),
                )


def _other_answers(
    question: Question, current: str | list[str] | None
) -> Iterator[str | list[str]]:
    if not question.many:
        yield from (value for value in question.values if value != current)
        return
    chosen = list(current or [])
    for value in question.values:
        kept = {*chosen} ^ {value}  # added, or taken away
        yield [one for one in question.values if one in kept]


def _text(
    question: Question, current: str | list[str] | None, to: str | list[str], strategy: str
) -> str:
    title = knowledge_base().strategy(strategy).title
    if question.many:
        changed = question.label(sorted({*(current or [])} ^ {*to}))
        verb = "with" if len(to) > len(current or []) else "without"
        return f"{question.text} {verb.capitalize()} “{changed}”: {title}."
    answered = f" instead of “{question.label(current)}”" if current is not None else ""
    return f"{question.text} “{question.label(to)}”{answered}: {title}."
