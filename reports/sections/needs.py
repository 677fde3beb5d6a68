"""What the plan needs: memory by method, component and phase, GPUs, time, and the other peaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from estimator.estimate import COMPONENTS, PHASES, MemoryEstimate, judged_gpus
from reports import calibrated as calibrated_words
from reports import levels, outlook
from reports.blocks import Block, Bullets, Chart, Heading, Paragraph, Span, Table, Text, note, right
from reports.blocks import bullets as bullet_list
from reports.build import Report
from reports.charts import memory_chart
from reports.explain import full_states
from reports.timeline_chart import timeline_chart
from reports.units import count, gib
from reports.words import basis_name, method_name


def blocks(report: Report) -> list[Block]:
    """Return the section; empty where there is no plan."""
    plan = report.scenario.plan
    if plan is None:
        return []
    found: list[Block] = [
        Paragraph(
            f"{plan.model}, micro-batch {plan.micro_batch_size} x {plan.seq_len:,} tokens"
            + (
                f", {count(report.estimates[0].parameters.total)} parameters."
                if report.estimates
                else "."
            )
        )
    ]
    if report.estimates_refusal:
        found.append(Paragraph(f"No estimate by formula: {report.estimates_refusal}"))
    if report.estimates:
        found += [*_memory(report), *_calibrated(report), *_time(report)]
    return [*found, *_timelines(report)]


def _memory(report: Report) -> Iterator[Block]:
    estimates = report.estimates
    chart = memory_chart(estimates)
    spoken = "; ".join(
        f"{method_name(one.plan.method)} {gib(one.smallest_need_bytes)}" for one in estimates
    )
    yield Heading("Memory of one training step")
    yield Chart(
        "memory_chart",
        chart,
        f"Least memory by method, by component, with the memory of GPUs as lines: {spoken}",
        "The least memory with which each method's step runs. A bar that crosses a dashed line "
        f"does not fit those GPUs. {chart.line_names}.",
    )
    yield _components(report)
    yield Heading("Peak of each phase")
    rows = [(phase, *(gib(one.phases_bytes.get(phase)) for one in estimates)) for phase in PHASES]
    yield Table(
        "Peak of allocated memory by phase",
        ["Phase", *_methods(estimates)],
        rows,
        _numbers(estimates),
    )
    yield from bullet_list(dict.fromkeys(text for one in estimates for text in one.moved_by))
    states = full_states(estimates)
    if states:
        yield Paragraph(states)
    yield Heading("Which GPU is enough")
    yield _gpus(report)
    yield Paragraph(
        note(
            "Yes: with all the memory that the allocator would like to hold. Tight: only if the "
            "allocator gives its cache back under pressure. No: it does not fit."
        )
    )


def _methods(estimates: Sequence[MemoryEstimate]) -> list[str]:
    return [method_name(one.plan.method) for one in estimates]


def _numbers(estimates: Sequence[MemoryEstimate]) -> frozenset[int]:
    return right(1, len(estimates) + 1)


def _components(report: Report) -> Table:
    estimates, advice = report.estimates, report.recommendation
    advised = advice.recommendation.method if advice else None
    head: list[Text] = ["At the peak"]
    for one in estimates:
        name = method_name(one.plan.method) + (" (advised)" if one.plan.method == advised else "")
        head.append([name, note(f" {basis_name(one)}")])
    rows: list[Sequence[Text]] = []
    for name in COMPONENTS:
        sizes = [one.components_bytes.get(name) for one in estimates]
        if any(size or size is None for size in sizes):
            rows.append([name.replace("_", " "), *map(gib, sizes)])
    rows.append(["Phase of the peak", *(one.peak_phase for one in estimates)])
    first = len(rows)
    for level, words in levels.LEVEL_NAMES.items():
        shown = [levels.size(one, level) for one in estimates]
        cells = (_size(size) for size in shown)
        rows.append([[f"{words[0].upper()}{words[1:]}", note(" likely; low to high")], *cells])
    sums = {*range(first, len(rows)), len(rows) + 1}
    rows += [
        ["of it CUDA context", *(gib(levels.context(one)) for one in estimates)],
        ["Least GPU memory that it runs in", *(gib(one.smallest_need_bytes) for one in estimates)],
        ["Weights stored as", *map(_stored, estimates)],
        ["Trained parameters", *(count(one.parameters.trainable) for one in estimates)],
    ]
    name = "Memory at the peak by component and method"
    return Table(name, head, rows, _numbers(estimates), frozenset(sums))


def _size(size: levels.Size) -> Text:
    if not size.spread:
        return size.likely
    return [size.likely, note(f" {size.spread}{', assumed' if size.basis == 'assumed' else ''}")]


def _stored(estimate: MemoryEstimate) -> str:
    plan = estimate.plan
    return plan.quantization if plan.is_quantized else plan.weights_dtype


def _gpus(report: Report) -> Table:
    plan = report.scenario.plan
    own = plan.gpu_spec.name if plan else ""
    rows: list[Sequence[Text]] = []
    for gpu in judged_gpus(report.estimates):
        mine = " (the plan's)" if gpu.name == own else ""
        cells = (_fit(one, gpu.name) for one in report.estimates)
        rows.append([f"{gpu.name}{mine}", gib(gpu.memory_bytes), *cells])
    head = ["GPU", "Memory", *_methods(report.estimates)]
    return Table("Which GPU is enough for which method", head, rows, right(1, len(head)))


def _fit(estimate: MemoryEstimate, name: str) -> Text:
    fit = estimate.fit_on(name)
    if fit is None:
        return "not judged"
    left = "short" if fit.headroom_bytes < 0 else "left"
    return [Span(fit.fits, fit.fits), f", {gib(abs(fit.headroom_bytes))} {left}"]


def _calibrated(report: Report) -> Iterator[Block]:
    """Yield what probes on this machine's GPU make of the estimates."""
    if not report.calibrated:
        return
    yield Heading("Calibrated by probes on this machine")
    for one in report.calibrated:
        yield Paragraph(calibrated_words.headline(one))
        rows = [
            (size.name, size.plain, size.calibrated, size.spread)
            for size in calibrated_words.sizes(one)
        ]
        if rows:
            head = ("", "Plain", "Calibrated", "By each lesson")
            yield Table("Calibrated sizes beside plain ones", head, rows, right(1, 4))
        told = (calibrated_words.verdict(one), calibrated_words.time(one))
        yield from bullet_list(text for text in (*told, *one.calibration.notes) if text)


def _time(report: Report) -> Iterator[Block]:
    times = report.times
    yield Heading("Time, and what is needed beside the step")
    pairs = zip(report.estimates, times, strict=True)
    yield Bullets(
        [
            [Span(f"{method_name(one.plan.method)}. ", "strong"), outlook.time_sentence(time)]
            for one, time in pairs
        ]
    )
    yield Paragraph(note(f"By formula: {times[0].formula}. {' '.join(times[0].sources)}"))
    rows = [(name, *cells) for name, cells in outlook.columns(times, outlook.arithmetic_rows)]
    for source in (outlook.gpu_rows, outlook.other_rows):
        rows += [(name, *cells) for name, cells in outlook.columns(report.other_peaks, source)]
    head = ["Arithmetic and peaks", *_methods(report.estimates)]
    name = "Arithmetic of a step, and peaks beside it"
    yield Table(name, head, rows, _numbers(report.estimates))


def _timelines(report: Report) -> Iterator[Block]:
    """Yield a chart of every reading that has recorded its step."""
    for one in readings(report):
        if one.timeline:
            name = f"{method_name(one.plan.method)}, {basis_name(one)}"
            yield Heading(f"Memory over one step: {name}")
            yield Chart(
                "timeline_chart",
                timeline_chart(one.timeline),
                f"Allocated memory over one step by component, {name}; its peak is "
                f"{gib(one.peak_allocated_bytes)} in the phase {one.peak_phase}",
                "From left to right: tensors made and freed, in their order. It is not time.",
            )


def readings(report: Report) -> list[MemoryEstimate]:
    """Return the estimates, and every reading of every probe."""
    results = [probe.result for probe in report.probes]
    of_probes = [(one.formula, one.dry_run, one.measured) for one in results]
    return [*report.estimates, *(one for found in of_probes for one in found if one)]
