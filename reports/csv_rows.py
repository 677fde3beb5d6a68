"""What a report says as rows of one long table: a value each, its unit and where it is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from estimator.estimate import MemoryEstimate
from reports.build import Report
from reports.csv_cost_rows import cost_rows
from reports.csv_row import Row, Value
from reports.measured_runs import FineTuneRun, ProbeRun, SearchRun
from reports.sections.basis import assumptions, provenance


@dataclass(frozen=True, slots=True)
class _Place:
    """Where rows stand that have all but their key, value and unit in common."""

    section: str
    item: str = ""
    provenance: str = ""
    source: str = ""
    date: date | None = None

    def row(self, key: str, value: Value, unit: str = "") -> Row:
        return Row(
            self.section, self.item, key, value, unit, self.provenance, self.source, self.date
        )

    def rows(self, values: Mapping[str, Any], unit: str = "") -> Iterator[Row]:
        """Yield a row for each known value; inner mappings and lists get dotted keys."""
        for key, value in flat(values).items():
            yield self.row(key, value, unit)


def flat(values: Mapping[str, Any]) -> dict[str, Value]:
    """Return the values of nested mappings by dotted keys, those of lists by their place from 1."""
    found: dict[str, Value] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": one for name, one in flat(value).items()}
        elif isinstance(value, list | tuple):
            places = {str(place): one for place, one in enumerate(value, start=1)}
            found |= {f"{key}.{name}": one for name, one in flat(places).items()}
        else:
            found[str(key)] = value
    return found


def rows(report: Report) -> Iterator[Row]:
    """Yield every row of a report, in the order of its sections."""
    about = _Place("report", date=report.made_on)
    scenario = report.scenario
    yield from about.rows({"title": scenario.title, "notes": scenario.notes})
    yield from _advice(report)
    yield from _Place("answers", provenance="scenario").rows(scenario.answers)
    if scenario.workload:
        given = scenario.workload.model_dump(exclude_none=True)
        yield from _Place("workload", provenance="scenario").rows(given)
    if scenario.plan:
        yield from _Place("plan", provenance="scenario").rows(scenario.plan.to_document())
    for one in report.estimates:
        yield from _memory(_Place("memory", one.plan.method, one.basis), one)
    yield from _outlook(report)
    if report.costs:
        yield from cost_rows(report.costs)
    yield from _measured(report)
    for text, who in assumptions(report):
        yield _Place("assumption", "; ".join(who), "assumed").row("text", text)
    for what, basis, source, day in provenance(report):
        known = date.fromisoformat(day) if day else None
        yield Row("source", what, "basis", basis, "", basis, source, known)


def _advice(report: Report) -> Iterator[Row]:
    advice = report.recommendation
    if advice is None:
        return
    place = _Place("decision", provenance="rules")
    yield from place.rows({"sentence": advice.sentence, **advice.recommendation.model_dump()})
    yield place.row("stability", advice.confidence.stability, "share of draws")
    yield place.row("answered", advice.confidence.answered, "share of questions")
    for ranked in advice.ranking:
        place = _Place("ranking", ranked.strategy, "rules")
        yield place.row("score", ranked.score, "points")
        if ranked.blocked:
            yield place.row("blocked", ranked.blocked)
        for reason in ranked.reasons:
            place = _Place("reason", ranked.strategy, reason.evidence, reason.source)
            yield place.row(reason.rule, reason.points, "points")
            yield place.row(f"{reason.rule}.text", reason.text)
            for number, one in enumerate(reason.counter, start=1):
                place = _Place("counter-evidence", ranked.strategy, one.evidence, one.source)
                yield place.row(f"{reason.rule}.{number}", one.text)
    for gate in advice.gates:
        place = _Place("gate", gate.gate, gate.evidence, gate.source)
        yield from place.rows({gate.kind: gate.text, "strategies": "; ".join(gate.strategies)})
    for flip in advice.what_would_change:
        to = flip.to if isinstance(flip.to, str) else "; ".join(flip.to)
        yield _Place("change", flip.question, "rules").row(to, flip.strategy)
    for rung in advice.ladder:
        place = _Place("ladder", rung.rung, "rules", rung.source)
        yield place.row(rung.when, rung.evidence if rung.when == "later" else rung.what)


def _memory(place: _Place, one: MemoryEstimate) -> Iterator[Row]:
    yield place.row("parameters.total", one.parameters.total, "parameters")
    yield place.row("parameters.trainable", one.parameters.trainable, "parameters")
    components: dict[str, Value] = {f"component.{k}": v for k, v in one.components_bytes.items()}
    phases: dict[str, Value] = {f"phase.{k}": v for k, v in one.phases_bytes.items()}
    yield from place.rows(components | phases, "bytes")
    yield place.row("peak_phase", one.peak_phase)
    yield place.row("peak_allocated", one.peak_allocated_bytes, "bytes")
    yield place.row("peak_reserved", one.peak_reserved_bytes, "bytes")
    yield place.row("total", one.total_bytes, "bytes")
    yield place.row("smallest_need", one.smallest_need_bytes, "bytes")
    for level, band in one.bands.items():
        for end in ("low", "likely", "high"):
            yield place.row(f"{level}.{end}", getattr(band, f"{end}_bytes"), "bytes")
    for gpu in one.gpus:
        yield place.row(f"fits.{gpu.name}", gpu.fits)
        yield place.row(f"headroom.{gpu.name}", gpu.headroom_bytes, "bytes")


def _outlook(report: Report) -> Iterator[Row]:
    for one, time, peaks in zip(report.estimates, report.times, report.other_peaks, strict=True):
        place = _Place("time", one.plan.method, time.basis)
        spans = (
            ("step", time.step_seconds, "seconds"),
            ("speed", time.tokens_per_second, "tokens per second"),
            ("run", time.hours, "hours"),
        )
        for name, span, unit in spans:
            yield from place.rows({name: span.model_dump() if span else None}, unit)
        yield place.row("steps", time.num_steps, "steps")
        place = _Place("other peaks", one.plan.method, "formula")
        yield from place.rows(
            {"gpu": peaks.gpu_bytes, "host": peaks.host_bytes, "disk": peaks.disk_bytes}, "bytes"
        )
    for found in report.calibrated:
        lessons = found.calibration
        place = _Place("calibrated", lessons.device_name, "measured", date=lessons.newest)
        sizes = {level: band.model_dump() for level, band in found.calibrated_bytes.items()}
        yield from place.rows(sizes, "bytes")
        if found.calibrated_hours:
            yield from place.rows({"run": found.calibrated_hours.model_dump()}, "hours")


def _measured(report: Report) -> Iterator[Row]:
    for probe in report.probes:
        yield from _probe(probe)
    for finetune in report.finetunes:
        yield from _finetune(finetune)
    for search in report.searches:
        yield from _search(search)


def _run_place(run: ProbeRun | FineTuneRun) -> _Place:
    kind, device = run.result.kind, run.result.device_name
    return _Place(kind, run.run, "measured", device, run.ended_on)


def _probe(run: ProbeRun) -> Iterator[Row]:
    result, place = run.result, _run_place(run)
    yield from place.rows({"state": run.state, "model": result.plan.model})
    yield place.row("method", result.plan.method)
    for reading in (result.formula, result.dry_run, result.measured):
        if reading:
            there = _Place(place.section, run.run, reading.basis, place.source, run.ended_on)
            yield there.row("peak_allocated", reading.peak_allocated_bytes, "bytes")
            yield there.row("peak_reserved", reading.peak_reserved_bytes, "bytes")
    if result.out_of_memory:
        yield place.row("out_of_memory", result.out_of_memory.phase)
    yield place.row("steps", result.num_steps, "steps")
    yield place.row("first_loss", result.first_loss, "nats per token")
    yield place.row("last_loss", result.last_loss, "nats per token")
    yield place.row("step.median", result.step_seconds_median, "seconds")
    yield place.row("speed", result.tokens_per_second, "tokens per second")
    if result.whole_run and result.whole_run.hours:
        yield from place.rows({"whole_run": result.whole_run.hours.model_dump()}, "hours")
    if result.whole_run and result.whole_run.usd:
        yield from place.rows({"whole_run": result.whole_run.usd.model_dump()}, "USD")


def _finetune(run: FineTuneRun) -> Iterator[Row]:
    result, place = run.result, _run_place(run)
    yield from place.rows({"state": run.state, "model": result.plan.model})
    yield from place.rows({"method": result.plan.method, "ended": result.ended})
    yield place.row("steps", result.num_steps, "steps")
    yield place.row("took", result.seconds, "seconds")
    yield place.row("speed", result.tokens_per_second, "tokens per second")
    for point in run.losses:
        for name in ("training_loss", "validation_loss"):
            loss = getattr(point, name)
            if loss is not None:
                yield place.row(f"{name}.step.{point.step}", loss, "nats per token")
    if result.comparison:
        yield place.row("verdict", result.comparison.verdict or "")
        yield place.row("verdict.text", result.comparison.sentence)
        for side in ("before", "after"):
            found = getattr(result.comparison, side)
            for name in ("validation_loss", "exact_match", "rouge_l", "general_perplexity"):
                yield place.row(f"{side}.{name}", getattr(found, name))


def _search(run: SearchRun) -> Iterator[Row]:
    place = _Place("search", run.run, "measured", date=run.ended_on)
    yield from place.rows({"state": run.state, "sentence": run.result.sentence})
    for trial in run.result.trials:
        key = f"trial.{trial.number}"
        yield from place.rows({key: trial.parameters})
        yield place.row(f"{key}.state", trial.state)
        yield place.row(f"{key}.validation_loss", trial.validation_loss, "nats per token")
    for name, (_, after) in run.result.changes.items():
        value = after if isinstance(after, int | float | str | Decimal) else str(after)
        yield place.row(f"best.{name}", value)
