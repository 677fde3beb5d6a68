"""A report as Markdown, as GitHub shows it: the same blocks as on the page, without pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from reports.blocks import (
    Block,
    Bullets,
    Callout,
    Chart,
    Code,
    Details,
    Facts,
    Heading,
    Paragraph,
    Span,
    Table,
    Text,
    harmless,
    note,
    one_line,
    spans,
)
from reports.build import Report
from reports.sections import sections

_MARKS = re.compile(r"([\\`*_\[\]#~|$])")
_AT_START = re.compile(r"^(\s*)([-+=](?=[-=\s]|$)|\d+[.)](?=\s|$))")


def render(report: Report) -> str:
    """Return the report as one Markdown document; charts are told in words."""
    parts = [
        f"# {escaped(one_line(report.scenario.title))}",
        f"tuneplan report, {report.made_on:%-d %B %Y}",
    ]
    for section in sections(report):
        parts += [f"## {escaped(section.title)}", *_blocks(section.blocks)]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Return text so that none of it is read as Markdown, HTML or mathematics."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKS.sub(r"\\\1", text)
    return _AT_START.sub(lambda found: f"{found[1]}{found[2][:-1]}\\{found[2][-1]}", text)


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Heading(text):
            yield f"### {_inline(text)}"
        case Paragraph(text):
            yield _inline(text)
        case Callout(sentence, text):
            yield f"> **{_inline(sentence)}**" + (f"\n>\n> {_inline(text)}" if text else "")
        case Facts(items):
            yield _table(("", "", ""), items)
        case Bullets(items):
            yield "\n".join(f"- {_inline(item)}" for item in items)
        case Table(head=head, rows=rows, numbers=numbers):
            yield _table(head, rows, numbers)
        case Code(text):
            yield _fenced(harmless(text))
        case Details(summary, inner):
            yield f"<details><summary>{_plain_html(summary)}</summary>"
            yield from _blocks(inner)
            yield "</details>"
        case Chart(label=label):  # its words in place of the picture
            yield _inline(note(label))


def _inline(text: Text) -> str:
    found = spans(text)
    if found:  # spaces at the ends would make code of a line, or a break
        found[0] = Span(found[0].text.lstrip(), found[0].style, found[0].url)
    return "".join(map(_span, found)).rstrip()


def _span(span: Span) -> str:
    text = span.text
    inner = text.strip()
    if not inner:
        return text
    before = text[: len(text) - len(text.lstrip())]
    after = text[len(text.rstrip()) :]
    return f"{before}{_styled(inner, span)}{after}"


def _styled(text: str, span: Span) -> str:
    if span.url:
        return f"[{escaped(text)}](<{_address(span.url)}>)"
    if span.style == "code":
        ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
        room = " " if len(ticks) > 1 else ""
        return f"{ticks}{room}{text}{room}{ticks}"
    if span.style in ("strong", "tight", "no", "yes"):
        return f"**{escaped(text)}**"
    return f"<sub>{escaped(text)}</sub>" if span.style == "note" else escaped(text)


def _address(url: str) -> str:
    return url.replace("<", "%3C").replace(">", "%3E").replace("|", "%7C").replace(" ", "%20")


def _table(
    head: Sequence[Text], rows: Sequence[Sequence[Text]], numbers: frozenset[int] = frozenset()
) -> str:
    lines = [
        [_cell(cell) for cell in head],
        ["---:" if place in numbers else "---" for place in range(len(head))],
        *([_cell(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: Text) -> str:
    """Return a cell; a bar within code would end it, for a table's cells are parted first."""
    return "".join(map(_span_in_cell, spans(text))).strip()


def _span_in_cell(span: Span) -> str:
    if span.style == "code" and "|" in span.text:
        return _span(Span(span.text.replace("|", "\\|"), "code"))
    return _span(span)


def _plain_html(text: str) -> str:
    shown = one_line(text)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"
