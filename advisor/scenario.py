"""A scenario: everything one decision rests on, in one file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from advisor.answers import Answers, parse_answers
from estimator.documents import read_document
from estimator.plan import FineTunePlan, parse_plan, resolve_paths
from estimator.problems import InputError, Problem
from estimator.records import Record
from estimator.validation import validate

_CASES = Path(__file__).with_name("data") / "cases.yaml"


def _check_answers(value: Any) -> Any:
    return parse_answers(value)


def _check_plan(value: Any) -> Any:
    if value is None or isinstance(value, FineTunePlan):
        return value
    if not isinstance(value, dict):
        raise InputError(Problem("plan", f"{value!r} is not a plan", "a mapping, or null"))
    return parse_plan(value)


class Workload(Record):
    """What the system has to serve."""

    requests_per_month: int = Field(ge=0, le=10**12)
    input_tokens: int = Field(ge=0, le=10**8, description="per request, without retrieved text")
    output_tokens: int = Field(ge=0, le=10**7, description="per request")
    growth_percent_per_month: float = Field(0.0, ge=-100, le=1000)


class Scenario(Record):
    """Everything one decision rests on: what a report is made from.

    ``prices`` overrides bundled prices, by name, in US dollars.
    """

    title: str = Field("Untitled scenario", min_length=1)
    notes: str = ""
    answers: Annotated[Answers, BeforeValidator(_check_answers)] = Field({})
    plan: Annotated[FineTunePlan | None, BeforeValidator(_check_plan)] = None
    workload: Workload | None = None
    prices: dict[str, Annotated[float, Field(ge=0)]] = Field({})

    def to_document(self) -> dict[str, Any]:
        """Return the scenario as plain JSON values, which :func:`parse_scenario` reads back."""
        return self.model_dump(mode="json")


class Case(Record):
    """A case to start from: its answers, and the strategy it calls for."""

    title: str
    source: str
    strategy: str
    answers: Answers

    @property
    def is_published(self) -> bool:
        """Whether somebody else published the case; the others are our own judgement."""
        return not self.source.startswith("tuneplan")


def parse_scenario(document: dict[str, Any], *, name: str = "scenario") -> Scenario:
    """Return the scenario that a parsed document describes.

    Raises:
        InputError: It is not a scenario; every problem in its answers, plan and workload is listed.
    """
    return validate(Scenario, document, name)


def load_scenario(path: Path) -> Scenario:
    """Return the scenario in a YAML or JSON file.

    A relative model or data path of its plan that exists beside the file is taken from there.

    Raises:
        InputError: The file or the scenario is wrong; every problem is listed.
    """
    document = read_document(path)
    if isinstance(document.get("plan"), dict):
        document["plan"] = resolve_paths(document["plan"], path.parent)
    return parse_scenario(document, name=str(path))


def load_answers(path: Path) -> Answers:
    """Return the answers in a file that holds nothing else, or in a scenario file.

    Raises:
        InputError: The file, the answers or the scenario is wrong; every problem is listed.
    """
    document = read_document(path)
    if Scenario.model_fields.keys() & document.keys():
        return load_scenario(path).answers
    return parse_answers(document, str(path))


@cache
def bundled_cases() -> tuple[Case, ...]:
    """Return the bundled cases, whose answers can be started from."""
    document = read_document(_CASES)
    return tuple(
        Case(**case | {"answers": document["base"] | case["answers"]}) for case in document["cases"]
    )
