"""A scenario: everything one decision rests on, in one file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from advisor.answers import Answers, parse_answers
from advisor.bundled import read_bundled
from advisor.questions import questions
from advisor.rules import Source, with_sources
from advisor.workload import Workload
from estimator.documents import read_document, read_text
from estimator.plan import FineTunePlan, parse_plan, resolve_paths
from estimator.prices import name_problems
from estimator.problems import InputError, Problem
from estimator.records import Record
from estimator.validation import refuse_other_kind, validate


def _check_answers(value: Any) -> Any:
    return parse_answers(value)


def _check_plan(value: Any) -> Any:
    if value is None or isinstance(value, FineTunePlan):
        return value
    if not isinstance(value, dict):
        raise InputError(Problem("plan", f"{value!r} is not a plan", "a mapping, or null"))
    return parse_plan(value)


def _check_prices(value: dict[str, float]) -> dict[str, float]:
    problems = name_problems(value)
    if problems:
        raise InputError(problems)
    return value


_KNOWN_PRICES = AfterValidator(_check_prices)


class Scenario(Record):
    """Everything one decision rests on: what a report is made from.

    ``prices`` overrides prices, by name, in US dollars.
    """

    title: str = Field("Untitled scenario", min_length=1)
    notes: str = ""
    answers: Annotated[Answers, BeforeValidator(_check_answers)] = Field({})
    plan: Annotated[FineTunePlan | None, BeforeValidator(_check_plan)] = None
    workload: Workload | None = None
    prices: Annotated[dict[str, Annotated[float, Field(ge=0, le=10**9)]], _KNOWN_PRICES] = Field({})

    def to_document(self) -> dict[str, Any]:
        """Return the scenario as plain JSON values, which :func:`parse_scenario` reads back."""
        return self.model_dump(mode="json")


class Case(Record):
    """A case to start from: its answers, and the strategy it calls for.

    ``outcome`` says what was found or done, where the case is somebody else's.
    """

    title: str
    source: Source
    strategy: str
    outcome: str = ""
    answers: Answers

    @property
    def is_published(self) -> bool:
        """Whether somebody else published the case; the others are our own judgement."""
        return self.source.url is not None


def parse_scenario(document: dict[str, Any], *, name: str = "scenario") -> Scenario:
    """Return the scenario that a parsed document describes.

    Raises:
        InputError: It is not a scenario; every problem in its answers, plan and workload is
            listed, a model that does not exist too (unless only the Hub could tell).
    """
    try:
        return validate(Scenario, document, name)
    except InputError as error:
        raise InputError([*error.problems, *_model_problems(document, name)]) from None


def _model_problems(document: dict[str, Any], name: str) -> Iterator[Problem]:
    """A model is looked for by what reads the plan: too late to be told with the other problems."""
    plan = document.get("plan")
    model = plan.get("model") if isinstance(plan, dict) else None
    if isinstance(model, str) and model:
        from estimator.models import local_problems

        for one in local_problems(model):
            yield replace(one, where=f"{name}: plan: {one.where}")


def load_scenario(path: Path) -> Scenario:
    """Return the scenario in a YAML or JSON file.

    A relative model or data path of its plan that exists beside the file is taken from there.

    Raises:
        InputError: The file or the scenario is wrong; every problem is listed.
    """
    document = read_document(path)
    refuse_other_kind(document, "a scenario", Scenario.model_fields, str(path))
    if isinstance(document.get("plan"), dict):
        document["plan"] = resolve_paths(document["plan"], path.parent)
    return parse_scenario(document, name=str(path))


def load_answers(path: Path) -> Answers:
    """Return the answers in a file that holds nothing else, or in a scenario file.

    Raises:
        InputError: The file, the answers or the scenario is wrong; every problem is listed.
    """
    return load_answers_and_plan(path)[0]


def load_answers_and_plan(path: Path) -> tuple[Answers, FineTunePlan | None]:
    """Return the answers in a file, and the plan where it is a scenario file with one.

    A file that holds nothing, or comments alone, holds no answers.

    Raises:
        InputError: The file, the answers or the scenario is wrong; every problem is listed.
    """
    if _is_empty(read_text(path)):
        return {}, None
    document = read_document(path)
    if Scenario.model_fields.keys() & document.keys():
        scenario = load_scenario(path)
        return scenario.answers, scenario.plan
    known = {question.id for question in questions()} - FineTunePlan.model_fields.keys()
    refuse_other_kind(document, "a set of answers or a scenario", known, str(path))
    return parse_answers(document, str(path)), None


def _is_empty(text: str) -> bool:
    lines = (line.strip() for line in text.removeprefix("\ufeff").splitlines())
    return all(not line or line.startswith("#") for line in lines)


@cache
def bundled_cases() -> tuple[Case, ...]:
    """Return the bundled cases, whose answers can be started from."""
    return _cases(with_sources(read_bundled("cases")["cases"]))


@cache
def literature_cases() -> tuple[Case, ...]:
    """Return more published cases, which the rules are held to and nothing is started from."""
    return _cases(read_bundled("literature")["cases"])


def _cases(rows: list[dict[str, Any]]) -> tuple[Case, ...]:
    base = read_bundled("cases")["base"]
    return tuple(
        Case.model_validate(row | {"answers": parse_answers(base | row["answers"], row["title"])})
        for row in rows
    )
