"""A report as a file's bytes: the same from the terminal and from the browser."""

from __future__ import annotations

from typing import Literal

from reports import as_json, csv_file, html, markdown
from reports.build import Report

Form = Literal["html", "md", "csv", "json"]

_RENDER = {
    "html": html.render,
    "md": markdown.render,
    "csv": csv_file.render,
    "json": as_json.render,
}


def render(report: Report, form: Form) -> bytes:
    """Return a report as the bytes of a file.

    Equal reports give equal bytes: nothing but the report's own day is told of when it was made.

    Args:
        report: What to write down.
        form: What kind of file.
    """
    return _RENDER[form](report).encode()
