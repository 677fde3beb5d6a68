"""Answers to the questionnaire, checked against it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from advisor.questions import Question, questions
from estimator.problems import InputError, Problem
from estimator.validation import MOST_KEY_LISTS

Answers = dict[str, str | list[str]]


def parse_answers(document: Any, name: str = "answers") -> Answers:
    """Return the answers that a document holds, in the order of the questionnaire.

    Questions may be missing, or null. ``0`` is taken for ``"0"`` and true and false for ``yes``
    and ``no``, as other YAML tools write them.

    Args:
        document: A mapping of question id to choice, or to a list of choices.
        name: What to call the document in problems, usually its path.

    Raises:
        InputError: A question or a choice does not exist, or one choice stands where a list
            belongs or the reverse; it lists all of them.
    """
    if not isinstance(document, dict):
        what = f"{document!r} is not a set of answers"
        raise InputError(Problem(name, what, "a mapping of question to choice"))
    known = {question.id: question for question in questions()}
    problems = list(_unknown([key for key in document if key not in known], known, name))
    answers: Answers = {}
    for question in known.values():
        if document.get(question.id) is None:
            continue
        answer = _plain(document[question.id])
        found = list(_problems(question, answer, name))
        problems += found
        if not found:
            answers[question.id] = _in_order(question, answer) if question.many else answer
    if problems:
        raise InputError(problems)
    return answers


def relevant_answers(answers: Answers) -> Answers:
    """Return the answers that count: those to questions that no other answer makes irrelevant."""
    return {
        question.id: answers[question.id]
        for question in questions()
        if question.id in answers and question.made_irrelevant_by(answers) is None
    }


def open_questions(answers: Answers) -> tuple[Question, ...]:
    """Return the questions that are still worth asking, in their order."""
    return tuple(
        question
        for question in questions()
        if question.id not in answers and question.made_irrelevant_by(answers) is None
    )


def answered_share(answers: Answers) -> float:
    """Return how much of the questionnaire is answered, 0 to 1.

    A question that is open and irrelevant counts for nothing. One that was answered all the same
    stays counted, so that one answer more never lowers the share.
    """
    return len(answers) / (len(answers) + len(open_questions(answers)))


def _in_order(question: Question, chosen: list[str]) -> list[str]:
    return [value for value in question.values if value in chosen]


def _plain(answer: Any) -> Any:
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    if isinstance(answer, int):
        return str(answer)
    return [_plain(item) for item in answer] if isinstance(answer, list | tuple) else answer


def _unknown(keys: list[Any], known: Iterable[str], name: str) -> Iterator[Problem]:
    """One problem for each key; of many, the first alone lists what there is."""
    for number, key in enumerate(keys):
        allowed = ", ".join(known) if number == 0 or len(keys) <= MOST_KEY_LISTS else ""
        fix = _fix(key, known, "remove it")
        yield Problem(f"{name}: {key}", "is not a question", allowed, fix)


def _problems(question: Question, answer: Any, name: str) -> Iterable[Problem]:
    where = f"{name}: {question.id}"
    allowed = ", ".join(question.values)
    if question.many and not isinstance(answer, list):
        yield Problem(
            where, f"{answer!r} is not a list", f"a list of {allowed}", f"write [{answer}]"
        )
    elif not question.many and isinstance(answer, list):
        yield Problem(where, f"{answer!r} is a list", f"one of {allowed}", "choose one")
    else:
        for value in answer if question.many else [answer]:
            if value not in question.values:
                fix = _fix(value, question.values, "choose one of these")
                yield Problem(where, f"{value!r} is not a choice", allowed, fix)


def _fix(word: Any, words: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(str(word), list(words), 1)
    return f"did you mean {close[0]}?" if close else otherwise
