"""The questionnaire: what is asked, why, and what may be answered. The text is data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import Field

from advisor.bundled import read_bundled
from estimator.records import Record


class Question(Record):
    """One question of the questionnaire.

    Attributes:
        id: The key in an answers file.
        section: The heading it stands under.
        text: The question itself.
        why: What the answer decides.
        help: How to find the answer.
        choices: The values allowed, each with its label, in the order to show them.
        choice_help: What a choice means, by value, where its label does not say it all.
        many: Whether the answer is a list of values.
        irrelevant_when: Answers to other questions that make this one beside the point: the
            values of a question, any of which does. The question is then neither asked nor counted.
        learn: Topics that explain the words used.
    """

    id: str
    section: str
    text: str
    why: str
    help: str
    choices: tuple[tuple[str, str], ...]
    choice_help: dict[str, str] = Field({})
    many: bool = False
    irrelevant_when: dict[str, tuple[str, ...]] = Field({})
    learn: tuple[str, ...] = ()

    @property
    def values(self) -> tuple[str, ...]:
        """The values that may be answered."""
        return tuple(value for value, _ in self.choices)

    def made_irrelevant_by(self, answers: Mapping[str, str | list[str]]) -> str | None:
        """Return the question whose answer makes this one irrelevant, None where none does."""
        for question, values in self.irrelevant_when.items():
            if answers.get(question) in values:
                return question
        return None

    def label(self, answer: str | list[str] | None) -> str:
        """Return an answer in words."""
        if answer is None:
            return "not answered"
        labels = dict(self.choices)
        if isinstance(answer, str):
            return labels[answer]
        return "; ".join(labels[value] for value in answer) or "nothing"


@cache
def questions() -> tuple[Question, ...]:
    """Return every question, in the order to ask them."""
    return tuple(
        Question(**row | {"section": section["title"], "choices": tuple(row["choices"].items())})
        for section in read_bundled("questions")["sections"]
        for row in section["questions"]
    )


def find_question(question_id: str) -> Question:
    """Return the question with this id, which must exist."""
    return next(question for question in questions() if question.id == question_id)
