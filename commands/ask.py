"""The questionnaire on a terminal, one question at a time."""

from __future__ import annotations

from collections.abc import Callable

from advisor.answers import Answers
from advisor.questions import Question, questions


def ask_questions(prompt: Callable[[str], str]) -> Answers:
    """Ask every question and return the answers; an empty line leaves a question open.

    Args:
        prompt: Shows a text and returns the line typed in answer.
    """
    answers: Answers = {}
    for number, question in enumerate(questions(), start=1):
        text = f"\n{number}/{len(questions())}  {question.text}\n    {question.why}\n"
        for index, (_, label) in enumerate(question.choices, start=1):
            text += f"  {index:>2}  {label}\n"
        text += "Numbers, separated by commas" if question.many else "Number"
        answer = _ask_until_clear(prompt, text + " (empty: skip)", question)
        if answer:
            answers[question.id] = answer
    return answers


def _ask_until_clear(
    prompt: Callable[[str], str], text: str, question: Question
) -> str | list[str] | None:
    while True:
        typed = prompt(text).replace(",", " ").split()
        if not typed:
            return None
        chosen = [_choice(word, question) for word in typed]
        known = [value for value in chosen if value is not None]
        if len(known) == len(chosen) and (question.many or len(known) == 1):
            return known if question.many else known[0]
        allowed = "numbers" if question.many else "one number"
        text = f"Please give {allowed} from 1 to {len(question.choices)} (empty: skip)"


def _choice(word: str, question: Question) -> str | None:
    if word.isdecimal() and 1 <= int(word) <= len(question.choices):
        return question.values[int(word) - 1]
    return word if word in question.values and not word.isdecimal() else None
