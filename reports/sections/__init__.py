"""The sections of a report, in the order of a reader who has to decide."""

from __future__ import annotations

from reports.blocks import Section
from reports.build import Report
from reports.sections import advice, basis, costs, measured, needs, summary


def sections(report: Report) -> list[Section]:
    """Return every section that has something to say."""
    found = [
        Section("summary", "The decision in short", "Summary", summary.blocks(report)),
        Section("why", "Why", "Why", advice.why(report)),
        Section("change", "What would change it", "What would change it", advice.changes(report)),
        Section("needs", "What it needs", "Needs", needs.blocks(report)),
        Section("costs", "What it costs", "Costs", costs.blocks(report)),
        Section("measured", "What was measured", "Measured", measured.blocks(report)),
        Section("plan", "The plan", "Plan", basis.plan(report)),
        Section("assumed", "What is assumed", "Assumed", basis.assumed(report)),
        Section("sources", "Sources and dates", "Sources", basis.sources(report)),
    ]
    return [one for one in found if one.blocks]
