"""What a report consists of, before it is HTML or Markdown: blocks of text, tables and charts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Style = Literal["plain", "strong", "code", "note", "yes", "tight", "no"]

# Controls, line separators, marks that turn the direction of what follows, halves of characters.
_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text in one style; ``url`` makes a link of it."""

    text: str
    style: Style = "plain"
    url: str | None = None


Part = str | Span
Text = Part | Sequence[Part]


def spans(text: Text) -> list[Span]:
    """Return a text as spans on one line, in which nothing acts on what is around it."""
    parts = [text] if isinstance(text, str | Span) else text
    found = [one if isinstance(one, Span) else Span(one) for one in parts]
    return [Span(one_line(one.text), one.style, one.url) for one in found if one.text]


def one_line(text: str) -> str:
    """Return a text on one line, control characters written out; spaces at its ends are kept."""
    return harmless(re.sub(r"\s+", " ", text))


def harmless(text: str) -> str:
    """Return a text whose control characters, but line ends, are written out."""
    return _HARMFUL.sub(lambda found: found[0] if found[0] == "\n" else ascii(found[0])[1:-1], text)


def strong(text: str) -> Span:
    """Return text that matters."""
    return Span(text, "strong")


def code(text: str) -> Span:
    """Return text to be typed as it is."""
    return Span(text, "code")


def note(text: str) -> Span:
    """Return text of lesser weight."""
    return Span(text, "note")


def link(text: str, url: str | None) -> Span:
    """Return a link, or plain text where there is no address."""
    return Span(text, url=url)


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph."""

    kind: ClassVar = "paragraph"
    text: Text


@dataclass(frozen=True, slots=True)
class Callout:
    """What matters most: a sentence, and what follows from it."""

    kind: ClassVar = "callout"
    sentence: str
    text: Text = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """A few figures: a name, a value, and what to know about it."""

    kind: ClassVar = "facts"
    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list."""

    kind: ClassVar = "bullets"
    items: Sequence[Text]


@dataclass(frozen=True, slots=True)
class Table:
    """A table. The first cell of each row names the row.

    Attributes:
        name: What it shows, for people who cannot see it.
        head: The names of the columns.
        rows: A cell for each column.
        numbers: Which columns hold numbers, and stand to the right.
        sums: Which rows are sums, or what matters most.
    """

    kind: ClassVar = "table"
    name: str
    head: Sequence[Text]
    rows: Sequence[Sequence[Text]]
    numbers: frozenset[int] = frozenset()
    sums: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture; what it shows is also in words or in a table.

    Attributes:
        form: Which picture: the name of its macro.
        chart: Where its parts lie.
        label: What is to be seen, in words.
        caption: How to read it.
    """

    kind: ClassVar = "chart"
    form: str
    chart: Any
    label: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to be used as they are."""

    kind: ClassVar = "code"
    text: str


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that only some readers want."""

    kind: ClassVar = "details"
    summary: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | Callout | Facts | Bullets | Table | Chart | Code | Details


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report with a heading of its own."""

    id: str
    title: str
    short: str
    blocks: list[Block] = field(default_factory=list)


def right(first: int, count: int) -> frozenset[int]:
    """Return the columns from ``first`` to the last of ``count``."""
    return frozenset(range(first, count))


def bullets(items: Iterable[Text]) -> list[Block]:
    """Return a list, or nothing where it would be empty."""
    found = list(items)
    return [Bullets(found)] if found else []
