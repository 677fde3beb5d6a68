"""A report as JSON: the same content as the HTML, for other programs."""

from __future__ import annotations

import json

from reports.build import Report


def render(report: Report) -> str:
    """Return the report as one JSON object, indented, ending in a newline."""
    return json.dumps(report.to_document(), indent=2, ensure_ascii=False) + "\n"
