"""The named inputs of a cost with ranges and sources, and why others are unknown."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from advisor.answers import Answers
from estimator.cost_ledger import Basis, CostInput
from estimator.records import Record

_DATA = Path(__file__).with_name("data")

Spread = tuple[Decimal, Decimal, Decimal]


class Assumption(Record):
    """What is taken where nobody says better."""

    name: str
    label: str
    unit: str
    low: Decimal
    mid: Decimal
    high: Decimal
    source: str


@cache
def assumptions() -> dict[str, Assumption]:
    """Return every assumption by name."""
    rows = _rows("cost_assumptions.csv")
    return {row["name"]: Assumption.model_validate(row) for row in rows}


@cache
def _by_answer() -> dict[tuple[str, str, str], Spread]:
    return {
        (row["input"], row["question"], row["choice"]): (
            Decimal(row["low"]),
            Decimal(row["mid"]),
            Decimal(row["high"]),
        )
        for row in _rows("cost_answers.csv")
    }


def _rows(name: str) -> list[dict[str, str]]:
    with (_DATA / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def exact(value: float | str | Decimal) -> Decimal:
    """Return a number as the Decimal that it is written as."""
    return value if isinstance(value, Decimal) else Decimal(str(value))


@dataclass(slots=True)
class InputBook:
    """Inputs by name, and why others are unknown.

    ``notes`` are sentences that a reader of the result should know; ``gpus`` the GPU of each price
    by the hour, priced or not.
    """

    inputs: dict[str, CostInput] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    gpus: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        name: str,
        label: str,
        unit: str,
        spread: Any,
        basis: Basis,
        source: str,
        *,
        checked_at: date | None = None,
        warning: str = "",
    ) -> None:
        """Write an input down; ``spread`` is one number, or low, mid and high."""
        low, mid, high = spread if isinstance(spread, tuple) else (spread, spread, spread)
        self.inputs[name] = CostInput(
            name=name,
            label=label,
            unit=unit,
            low=exact(low),
            mid=exact(mid),
            high=exact(high),
            basis=basis,
            source=source,
            checked_at=checked_at,
            warning=warning,
        )

    def miss(self, reason: str, *names: str) -> None:
        """Write down that inputs are not known, and why."""
        for name in names:
            self.unknown[name] = reason

    def assume(self, name: str, given: float | None = None, answers: Answers | None = None) -> None:
        """Write down what is given in the scenario, or follows from its answers, or is assumed."""
        row = assumptions()[name]
        if given is not None:
            self.add(name, row.label, row.unit, given, "scenario", f"workload.{name}")
        elif not self.answer(name, row.label, row.unit, answers or {}):
            spread = (row.low, row.mid, row.high)
            self.add(name, row.label, row.unit, spread, "assumed", row.source)

    def answer(self, name: str, label: str, unit: str, answers: Answers) -> bool:
        """Write down what follows from the answers; return whether anything does."""
        for (wanted, question, choice), spread in _by_answer().items():
            if wanted == name and answers.get(question) == choice:
                self.add(name, label, unit, spread, "answers", f"{question}: {choice}")
                return True
        return False

    def mids(self) -> dict[str, Decimal]:
        """Return the middle value of every input."""
        return {name: one.mid for name, one in self.inputs.items()}
