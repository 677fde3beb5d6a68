"""One row of a report's long table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

Value = str | int | float | Decimal | None


@dataclass(frozen=True, slots=True)
class Row:
    """One value.

    Attributes:
        section: What part of the report it belongs to.
        item: What it is of: a method, a strategy, a run.
        key: Which of the item's values it is.
        value: The value; None where it is not known.
        unit: Of a number that has one.
        provenance: Measured, formula, quoted, assumed ...
        source: Who says so.
        date: Of the source, or of the measurement.
    """

    section: str
    item: str
    key: str
    value: Value
    unit: str = ""
    provenance: str = ""
    source: str = ""
    date: date | None = None
