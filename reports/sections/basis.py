"""What a report rests on: the plan, what is assumed, and where each number comes from."""

from __future__ import annotations

from collections.abc import Iterator

from estimator.estimate import judged_gpus
from estimator.gpus import Gpu, bundled_gpus
from reports.blocks import Block, Bullets, Code, Paragraph, Table, Text, code, note
from reports.build import Report
from reports.outlook import peak_notes
from reports.sections.needs import readings
from reports.words import basis_name, method_name


def plan(report: Report) -> list[Block]:
    """Return the whole plan; empty where there is none."""
    found = report.scenario.plan
    if found is None:
        return []
    text: Text = [
        "With every default filled in. Saved as ",
        code("plan.yaml"),
        " it gives the same numbers again: ",
        code("tuneplan estimate plan.yaml"),
        ".",
    ]
    return [Paragraph(text), Code(found.to_yaml())]


def assumed(report: Report) -> list[Block]:
    """Return what the numbers assume; empty where there is nothing."""
    found = assumptions(report)
    return [Bullets([[text, note(f" ({'; '.join(who)})")] for text, who in found])] if found else []


def assumptions(report: Report) -> list[tuple[str, list[str]]]:
    """Return what each reading assumes; what several assume is said once, for all of them."""
    said: dict[str, list[str]] = {}
    for reading in readings(report):
        name = f"{method_name(reading.plan.method)}, {basis_name(reading)}"
        for text in reading.assumptions:
            said.setdefault(text, [])
            if name not in said[text]:
                said[text].append(name)
    for time in report.times:
        for text in time.assumptions:
            said.setdefault(text, ["time"])
    for peaks in report.other_peaks:
        for text in peak_notes(peaks):
            said.setdefault(text, ["other peaks"])
    for one in report.costs.inputs if report.costs else ():
        if one.basis == "assumed":
            said.setdefault(f"{one.label}: {one.source}", ["costs"])
    return list(said.items())


def sources(report: Report) -> list[Block]:
    """Return where each kind of number comes from, with the date where there is one."""
    rows = list(provenance(report))
    if not rows:
        return []
    head = ("Number", "Basis", "Source", "Date")
    return [
        Paragraph(
            "Measured: on a machine. Dry run: the real step, executed on tensors without content. "
            "Formula: in closed form. Quoted: from a source. Assumed: by whoever wrote it down."
        ),
        Table("Where numbers come from", head, rows),
    ]


def provenance(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Yield where each kind of number comes from: what, basis, source, date."""
    if report.recommendation:
        yield "Answers", "assumed", "given by whoever filled in the scenario", ""
        yield "Points of the rules", "assumed", "each rule's source is beside it", ""
    if report.scenario.workload:
        yield "Workload", "assumed", "given in the scenario", ""
    if report.estimates:
        yield f"Shape of {report.estimates[0].plan.model}", "quoted", report.model_source, ""
        bases = dict.fromkeys(basis_name(one) for one in report.estimates)
        told = "computed from that shape and the plan"
        yield "Memory by method", ", ".join(bases), told, ""
        if report.times:
            yield "Time", "formula", "a roofline; its sources are beside it", ""
        for gpu in _gpus(report):
            yield f"Memory of {gpu.name}", "quoted", gpu.source, ""
    for one in report.calibrated:
        lessons = one.calibration
        told = f"{lessons.num_lessons} probes on {lessons.device_name}"
        yield "Calibrated memory and time", "measured", told, str(lessons.newest)
    for run in (*report.probes, *report.finetunes):
        software = ", ".join(f"{name} {number}" for name, number in run.result.software.items())
        what = f"Run {run.run}: {run.result.plan.model}, {run.result.plan.method}"
        source = f"{run.result.device_name}; {software}".rstrip("; ")
        yield what, "measured", source, str(run.ended_on or "")
    for run in report.searches:
        told = f"{len(run.result.trials)} fine-tunes"
        yield f"Run {run.run}: search", "measured", told, str(run.ended_on or "")
    for one in report.costs.inputs if report.costs else ():
        if one.basis == "quoted":
            what = "Price" if "USD" in one.unit else "For the costs"
            yield f"{what}: {one.label}", "quoted", one.source, str(one.checked_at or "")


def _gpus(report: Report) -> list[Gpu]:
    names = {fit.name for fit in judged_gpus(report.estimates)}
    return [gpu for gpu in bundled_gpus() if gpu.name in names]
