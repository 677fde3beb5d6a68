"""A report as JSON, for other programs, and the schema that it keeps to.

``python -m reports.as_json`` prints the schema: docs/report.schema.json is made with it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from reports.build import Report

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


def render(report: Report) -> str:
    """Return the report as one JSON object, indented, ending in a newline."""
    return report.model_dump_json(indent=2, by_alias=True) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a report."""
    found = Report.model_json_schema(mode="serialization", by_alias=True)
    return {"$schema": SCHEMA_ID} | found | {"title": "A tuneplan report"}


def schema_text() -> str:
    """Return the JSON Schema of a report as it is published."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
