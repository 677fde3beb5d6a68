"""A report as one HTML file: nothing is loaded from elsewhere, light or dark, and on paper."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from advisor.rules import knowledge_base
from reports import charts, units, words
from reports.blocks import harmless, one_line, spans
from reports.build import Report
from reports.sections import sections


def render(report: Report) -> str:
    """Return the report as one self-contained HTML document."""
    page = _environment().get_template("report.html.j2")
    return page.render(
        title=one_line(report.scenario.title),
        made_on=report.made_on,
        sections=sections(report),
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"gib": units.gib, "method": words.method_name}
    environment.globals |= {
        "spans": spans,
        "harmless": harmless,
        "titles": {one.id: one.title for one in knowledge_base().strategies},
        "label_height": charts.LABEL_HEIGHT,
    }
    return environment
