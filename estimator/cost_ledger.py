"""Line items: an amount of money told by a formula over named inputs, which it is asked for.

A line's amount is a function of the inputs by name. Which ones it asks for is written down while
it runs, so that an item always names what it was made of, and only that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

from estimator.cost import Number
from estimator.records import Record

Basis = Literal["quoted", "scenario", "answers", "plan", "measured", "formula", "assumed"]
When = Literal["one_time", "monthly", "per_request", "days", "seconds"]

_MICRO = Decimal("0.000001")


class CostInput(Record):
    """One quantity that costs depend on: its range, and where it comes from.

    Attributes:
        name: What lines ask for it by.
        label: The same for people.
        low: The smallest value to be expected; equal to ``mid`` where it is no range.
        mid: The value that amounts are reckoned with.
        high: The largest value to be expected.
        basis: Quoted (a price, with source and date), given in the scenario, taken from its
            answers or its plan, measured, told by a formula, or assumed.
        source: Who says so.
        checked_at: The day of a quoted price, None where it is not known or no price.
        warning: What to look out for, for example its age; "" where there is nothing.
    """

    name: str
    label: str
    unit: str
    low: Decimal
    mid: Decimal
    high: Decimal
    basis: Basis
    source: str
    checked_at: date | None = None
    warning: str = ""

    @property
    def is_range(self) -> bool:
        """Whether it is more than one value."""
        return self.low != self.high


class Missing(Exception):
    """An input is not known; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Values(Mapping[str, Number]):
    """Inputs by name, which remembers those that were asked for."""

    def __init__(self, known: Mapping[str, Number], unknown: Mapping[str, str]) -> None:
        self._known, self._unknown = known, unknown
        self.asked: dict[str, None] = {}

    def __getitem__(self, name: str) -> Number:
        if name in self._unknown:
            raise Missing(self._unknown[name])
        self.asked[name] = None
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


@dataclass(frozen=True, slots=True)
class Line:
    """One item of a strategy's cost, as a formula.

    Attributes:
        name: Its key in the result.
        label: What it is for.
        when: Paid once, every month, with every request; or no money but days, or seconds.
        formula: The formula in words.
        amount: The formula itself; US dollars (once, a month, a request), days or seconds.
    """

    name: str
    label: str
    when: When
    formula: str
    amount: Callable[[Mapping[str, Number]], Number]


class LineItem(Record):
    """A line with its amount.

    ``usd`` is what it comes to once or in the first month, ``usd_per_request`` that of one request
    where it grows with requests. Both are None where ``unknown`` says why.
    """

    name: str
    label: str
    when: When
    formula: str
    inputs: tuple[str, ...]
    usd: Decimal | None
    usd_per_request: Decimal | None = None
    unknown: str = ""


def to_micros(amount: Decimal) -> Decimal:
    """Return an amount to a millionth of a dollar, so that sums are exact."""
    return amount.quantize(_MICRO)


def read_item(line: Line, known: Mapping[str, Decimal], unknown: Mapping[str, str]) -> LineItem:
    """Return the exact amount of a line."""
    values = Values(known, unknown)
    usd = per_request = None
    reason = ""
    try:
        amount = line.amount(values)
        if line.when == "per_request":
            per_request = amount.normalize()
            amount *= values["requests_per_month"]
        usd = to_micros(amount)
    except Missing as missing:
        reason = missing.reason
    return LineItem(
        name=line.name,
        label=line.label,
        when=line.when,
        formula=line.formula,
        inputs=tuple(values.asked),
        usd=usd,
        usd_per_request=per_request,
        unknown=reason,
    )


def total(lines: Iterable[Line], values: Mapping[str, Number], *kinds: When) -> Number:
    """Return the sum of the lines of some kinds, over numbers or arrays; 0 where there are none.

    Lines with every request are counted for a month's requests.

    Raises:
        Missing: A line asks for something that is not known.
    """
    found: Number = 0
    for line in lines:
        if line.when in kinds:
            amount = line.amount(values)
            each = values["requests_per_month"] if line.when == "per_request" else 1
            found = found + amount * each  # not in place: arrays of several shapes
    return found
