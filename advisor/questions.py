"""The questionnaire: what is asked, why, and what may be answered. The text is data."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from estimator.documents import read_document
from estimator.records import Record

_DATA = Path(__file__).with_name("data") / "questions.yaml"


class Question(Record):
    """One question of the questionnaire.

    Attributes:
        id: The key in an answers file.
        section: The heading it stands under.
        text: The question itself.
        why: What the answer decides.
        help: How to find the answer.
        choices: The values allowed, each with its label, in the order to show them.
        many: Whether the answer is a list of values.
    """

    id: str
    section: str
    text: str
    why: str
    help: str
    choices: tuple[tuple[str, str], ...]
    many: bool = False

    @property
    def values(self) -> tuple[str, ...]:
        """The values that may be answered."""
        return tuple(value for value, _ in self.choices)

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
        for section in read_document(_DATA)["sections"]
        for row in section["questions"]
    )


def find_question(question_id: str) -> Question:
    """Return the question with this id, which must exist."""
    return next(question for question in questions() if question.id == question_id)
