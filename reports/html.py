"""A report as one HTML file: nothing is loaded from elsewhere, light or dark, and on paper."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from advisor.questions import find_question
from advisor.recommendation import Flip, Recommendation
from advisor.rules import knowledge_base
from advisor.scoring import NUM_DRAWS, SPREAD
from estimator.estimate import COMPONENTS, PHASES, MemoryEstimate, judged_gpus
from estimator.gpus import Gpu, bundled_gpus
from reports import charts, differences, levels, outlook, probe_facts, units, words
from reports.build import Report
from reports.explain import full_states
from reports.timeline_chart import TimelineChart, timeline_chart


def render(report: Report) -> str:
    """Return the report as one self-contained HTML document."""
    recommendation = report.recommendation
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            scenario=report.scenario,
            advice=recommendation,
            strategies={one.id: one for one in knowledge_base().strategies},
            evidence=_evidence(recommendation) if recommendation else "",
            decision_map=charts.decision_map(report.scenario.answers, recommendation.axes)
            if recommendation
            else None,
            memory_chart=charts.memory_chart(report.estimates) if report.estimates else None,
            states=full_states(report.estimates),
            timelines=_timelines(report),
            assumptions=_assumptions(report),
            moved_by=_moved_by(report),
            provenance=_provenance(report),
            num_draws=NUM_DRAWS,
            spread=SPREAD,
            components=COMPONENTS,
            phases=PHASES,
        )
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
    environment.filters |= {
        "gib": units.gib,
        "gb": units.gb,
        "mib": lambda size_bytes: f"{size_bytes / units.MIB:,.2f} MiB",
        "count": units.count,
        "duration": units.duration,
        "usd": units.usd,
        "points": _points,
        "percent": lambda share: f"{share:.0%}".replace("%", " %"),
        "method": words.method_name,
        "basis": words.basis_name,
        "step_size": words.step_size,
        "lacking": words.what_was_lacking,
        "time_sentence": outlook.time_sentence,
        "context": levels.context,
        "words": lambda name: name.replace("_", " "),
        "number": lambda value, digits=3: (
            units.UNKNOWN if value is None else f"{value:,.{digits}f}"
        ),
    }
    environment.globals |= {
        "changes_that_fit": words.CHANGES_THAT_FIT,
        "off": units.percent,
        "probe_facts": probe_facts.facts,
        "holders": probe_facts.holders,
        "differences": differences.differences,
        "length_note": differences.length_note,
        "level_names": levels.LEVEL_NAMES,
        "size_of": levels.size,
        "judged_gpus": judged_gpus,
        "question": find_question,
        "changed": _changed,
        "line_label": charts.label,
        "columns": outlook.columns,
        "arithmetic_rows": outlook.arithmetic_rows,
        "gpu_rows": outlook.gpu_rows,
        "other_rows": outlook.other_rows,
    }
    return environment


def _points(value: float) -> str:
    """A signed number of points, to the digits it has."""
    return f"{value:+.7g}".replace("-", "\N{MINUS SIGN}")


def _changed(flip: Flip) -> tuple[str, str]:
    """What a flip changes, in words: the answer now, and the one it would be."""
    question = find_question(flip.question)
    if not question.many:
        return question.label(flip.from_), question.label(flip.to)
    before, after = set(flip.from_ or ()), set(flip.to)
    changed = question.label([value for value in question.values if value in before ^ after])
    return ("chosen", f"without “{changed}”") if before > after else ("open", f"with “{changed}”")


def _evidence(recommendation: Recommendation) -> str:
    """What share of the first strategy's points rests on which kind of evidence."""
    names = {
        "experiment": "published experiments",
        "guidance": "vendors' guidance",
        "judgement": "our own judgement",
    }
    shares = recommendation.confidence.evidence.items()
    told = [f"{share:.0%} on {names[grade]}" for grade, share in shares if share]
    return f"of its points, {', '.join(told)}".replace("%", " %")


def _assumptions(report: Report) -> list[tuple[str, list[str]]]:
    """What each reading assumes; what several assume is said once, for all of them."""
    readings = [*report.estimates, *(r for probe in report.probes for r in _readings(probe))]
    said: dict[str, list[str]] = {}
    for reading in readings:
        name = f"{words.method_name(reading.plan.method)}, {words.basis_name(reading)}"
        for text in reading.assumptions:
            said.setdefault(text, [])
            if name not in said[text]:
                said[text].append(name)
    return [*said.items(), *_outlook_assumptions(report)]


def _moved_by(report: Report) -> list[str]:
    """What moves the estimates within their bands; what moves several is said once."""
    return list(dict.fromkeys(text for one in report.estimates for text in one.moved_by))


def _outlook_assumptions(report: Report) -> list[tuple[str, list[str]]]:
    """What the times and the other peaks assume, for whatever method."""
    times = dict.fromkeys(text for time in report.times for text in time.assumptions)
    peaks = dict.fromkeys(text for one in report.other_peaks for text in outlook.peak_notes(one))
    return [*((text, ["time"]) for text in times), *((text, ["other peaks"]) for text in peaks)]


def _readings(probe: Any) -> list[MemoryEstimate]:
    return [one for one in (probe.formula, probe.dry_run, probe.measured) if one]


def _timelines(report: Report) -> list[tuple[TimelineChart, MemoryEstimate]]:
    """A chart of every reading that has recorded its step."""
    readings = [*report.estimates, *(r for probe in report.probes for r in _readings(probe))]
    return [(timeline_chart(one.timeline), one) for one in readings if one.timeline]


def _provenance(report: Report) -> list[tuple[str, str, str]]:
    """Where each kind of number comes from: what, basis, source."""
    rows = []
    if report.recommendation:
        rows.append(("Answers", "assumed", "given by whoever filled in the scenario"))
        rows.append(("Points of the rules", "assumed", "each rule's source is beside it"))
    if report.scenario.workload:
        rows.append(("Workload", "assumed", "given in the scenario"))
    if report.estimates:
        model = report.estimates[0].plan.model
        rows.append((f"Shape of {model}", "quoted", report.model_source))
        bases = dict.fromkeys(words.basis_name(one) for one in report.estimates)
        rows.append(("Memory by method", ", ".join(bases), "computed from that shape and the plan"))
        if report.times:
            rows.append(("Time", "formula", "a roofline; its sources are beside it"))
        rows += [(f"Memory of {gpu.name}", "quoted", gpu.source) for gpu in _gpus(report)]
    for probe in report.probes:
        software = ", ".join(f"{name} {version}" for name, version in probe.software.items())
        what = f"Probe of {probe.plan.model}, {probe.plan.method}"
        rows.append((what, "measured", f"{probe.device_name}; {software}".rstrip("; ")))
    return rows


def _gpus(report: Report) -> list[Gpu]:
    names = {fit.name for fit in judged_gpus(report.estimates)}
    return [gpu for gpu in bundled_gpus() if gpu.name in names]
