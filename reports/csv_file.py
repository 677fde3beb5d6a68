"""A report as CSV: one long table that a spreadsheet opens without running anything in it."""

from __future__ import annotations

import csv
import io
from decimal import Decimal

from reports.blocks import one_line
from reports.build import Report
from reports.csv_row import Row, Value
from reports.csv_rows import rows

HEAD = ("section", "item", "key", "value", "unit", "provenance", "source", "date")

_FORMULA_STARTS = ("=", "+", "-", "@", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}")
_MORE_STARTS = ("\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}", "\t", "\r", "\n")


def render(report: Report) -> str:
    """Return the report as comma-separated values, RFC 4180, in UTF-8 without a mark.

    Text is quoted and numbers are not. Text that a spreadsheet would take for a formula begins
    with an apostrophe, as OWASP advises (owasp.org, CSV Injection).
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(HEAD)
    writer.writerows(map(_cells, rows(report)))
    return stream.getvalue()


def _cells(row: Row) -> list[str | int | Decimal]:
    texts = (row.unit, row.provenance, row.source, str(row.date or ""))
    return [safe(row.section), safe(row.item), safe(row.key), _value(row.value), *map(safe, texts)]


def safe(text: str) -> str:
    """Return text on one line that no spreadsheet takes for a formula."""
    risky = text.startswith((*_FORMULA_STARTS, *_MORE_STARTS))
    shown = one_line(text).strip()
    return f"'{shown}" if risky or shown.startswith((*_FORMULA_STARTS, *_MORE_STARTS)) else shown


def _value(value: Value) -> str | int | Decimal:
    """Return a number as it is, whole where it is whole; anything else as text."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return safe(value)
        case int():
            return value
        case float():
            return _number(Decimal(repr(value)))
        case _:
            return _number(value)


def _number(value: Decimal) -> str | int | Decimal:
    if not value.is_finite():
        return ""
    if value == value.to_integral_value() and abs(value) < 10**15:
        return int(value)
    return value.normalize()
