"""What was measured: probes beside their estimates, fine-tunes and searches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reports.blocks import (
    Block,
    Chart,
    Details,
    Heading,
    Paragraph,
    Span,
    Table,
    Text,
    bullets,
    code,
    note,
    right,
    strong,
)
from reports.build import Report
from reports.charts_lines import Series, axis, line_chart
from reports.differences import differences, length_note
from reports.finetune_facts import facts as finetune_facts
from reports.finetune_facts import measures, notes
from reports.measured_runs import FineTuneRun, ProbeRun, SearchRun
from reports.probe_facts import facts as probe_facts
from reports.probe_facts import holders
from reports.units import MIB, UNKNOWN, duration, gib, number, percent
from reports.words import makes_it_fit, method_name, step_size, what_was_lacking
from trainer.evaluation_results import Comparison
from trainer.results import OutOfMemory, ProbeResult
from trainer.search_results import SearchKey, SearchResult

_NUM_SAMPLES = 3
_MOST_OF_A_SAMPLE = 600
_NOTHING = [
    "Nothing has been measured for this report. ",
    code("tuneplan probe plan.yaml"),
    " takes a few real steps, on a GPU or a CPU, and lays them beside the estimate.",
]


def blocks(report: Report) -> list[Block]:
    """Return the section."""
    if not (report.probes or report.finetunes or report.searches):
        return [Paragraph(_NOTHING)]
    return [*_probes(report.probes), *_finetunes(report.finetunes), *_searches(report.searches)]


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:,.2f} MiB"


def _probes(probes: Sequence[ProbeRun]) -> Iterator[Block]:
    if not probes:
        return
    yield Heading("Probes: measured beside estimated")
    text = "A probe takes a few real training steps. Formula and dry run were made before it began."
    yield Paragraph(text)
    head = ("Probe", "Formula", "Dry run", "Measured", "Formula off by", "Dry run off by")
    rows = [_peaks(one.result) for one in probes]
    yield Table("Peak of allocated memory by reading", head, rows, right(1, 6))
    text = "Peak of allocated memory. Positive: more was estimated than measured."
    yield Paragraph(note(text))
    head = ("Probe", "Model and data", "On", "Steps", "Loss", "Per step", "Tokens/s")
    yield Table("What was run", head, [_run(one.result) for one in probes], right(3, 7))
    for one in probes:
        yield from _probe(one)


def _peaks(result: ProbeResult) -> list[Text]:
    measured = result.measured.peak_allocated_bytes if result.measured else None
    readings = (result.formula, result.dry_run)
    return [
        strong(method_name(result.plan.method)),
        *(_mib(one.peak_allocated_bytes) if one else "none" for one in readings),
        "out of memory" if measured is None else _mib(measured),
        *(
            percent(one.peak_allocated_bytes, measured) if one and measured else ""
            for one in readings
        ),
    ]


def _run(result: ProbeResult) -> list[Text]:
    plan = result.plan
    losses = f"{number(result.first_loss)} → {number(result.last_loss)}"
    return [
        strong(method_name(plan.method)),
        [
            f"{plan.model}, {result.weights} weights",
            note(f" {result.data}; micro-batch {plan.micro_batch_size} x {plan.seq_len:,} tokens"),
        ],
        result.device_name,
        f"{result.num_steps}{', stopped' if result.stopped_early else ''}",
        UNKNOWN if result.first_loss is None else losses,
        [duration(result.step_seconds_median), note(f" {step_size(plan)}")],
        number(result.tokens_per_second, 0),
    ]


def _title(method: str, run: ProbeRun | FineTuneRun | SearchRun) -> str:
    day = f", {run.ended_on}" if run.ended_on else ""
    state = "" if run.state == "finished" else f", {run.state.replace('_', ' ')}"
    return f"{method_name(method)}: run {run.run}{day}{state}"


def _probe(run: ProbeRun) -> Iterator[Block]:
    result = run.result
    yield Heading(_title(result.plan.method, run))
    told: list[Text] = [[strong(name), f": {value}"] for name, value in probe_facts(result)]
    yield from bullets([*told, *filter(None, [length_note(result)])])
    if result.formula_refusal:
        yield Paragraph(f"No formula: {result.formula_refusal}")
    for found in differences(result):
        yield Paragraph(found.reasons[0])
        yield from bullets(found.reasons[1:])
    if result.out_of_memory:
        yield from _lacking(result.out_of_memory)
    if result.whole_run and result.whole_run.assumptions:
        yield Paragraph(note(" ".join(result.whole_run.assumptions)))


def _lacking(found: OutOfMemory) -> Iterator[Block]:
    changes = f" {makes_it_fit(len(found.changes))}" if found.changes else ""
    yield Paragraph(f"{what_was_lacking(found)} {holders(found.holders)}{changes}")
    yield from bullets(
        [
            code(f"--set {one.override}"),
            f" (peak {gib(one.peak_allocated_bytes)})",
            f": {one.text}; its price: {one.price}" if one.text else "",
        ]
        for one in found.changes
    )


def _finetunes(runs: Sequence[FineTuneRun]) -> Iterator[Block]:
    for run in runs:
        result = run.result
        yield Heading(f"Fine-tune, {_title(result.plan.method, run)}")
        if result.comparison:
            yield Paragraph(strong(result.comparison.sentence))
            yield from bullets(result.comparison.warnings)
        rows = [(strong(name), value) for name, value in finetune_facts(result).items()]
        yield Table("What the fine-tune did", ("Fact", "Value"), rows)
        yield from _loss_chart(run)
        if result.comparison:
            yield from _before_and_after(result.comparison)
        yield from bullets(notes(result))
        if result.out_of_memory:
            yield from _lacking(result.out_of_memory)


def _loss_chart(run: FineTuneRun) -> Iterator[Block]:
    points = run.losses
    training = [(one.step, one.training_loss) for one in points if one.training_loss is not None]
    held_out = [
        (one.step, one.validation_loss) for one in points if one.validation_loss is not None
    ]
    named = (("training", training), ("held out", held_out))
    series = [Series(name, found) for name, found in named if found]
    if not series or len(points) < 2:
        return
    values = [loss for one in series for _, loss in one.points]
    told = (f"{one.name} {one.points[0][1]:.3f} → {one.points[-1][1]:.3f}" for one in series)
    yield Chart(
        "line_chart",
        line_chart(
            series,
            x=axis([points[0].step, points[-1].step], lambda step: f"{step:g}", whole=True),
            y=axis(values, lambda loss: f"{loss:g}"),
            x_title="step",
        ),
        f"Loss by step: {'; '.join(told)}",
        "Loss in nats per learned token. Where the held-out loss rises while the training loss "
        "falls, the model learns the examples by heart.",
    )


def _before_and_after(comparison: Comparison) -> Iterator[Block]:
    rows = [(name, *sides) for name, sides in measures(comparison).items()]
    if rows:
        yield Table("Before and after", ("Measure", "Before", "After"), rows, right(1, 3))
    pairs = list(zip(comparison.before.samples, comparison.after.samples, strict=False))
    if not pairs:
        return
    samples: list[Sequence[Text]] = [
        (_short(one.prompt), _short(one.reference), _short(before.output), _short(one.output))
        for before, one in pairs[:_NUM_SAMPLES]
    ]
    table = Table("Answers before and after", ("Asked", "Wanted", "Before", "After"), samples)
    yield Details(f"{len(samples)} of {len(pairs)} answers, before and after", [table])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_OF_A_SAMPLE else f"{line[:_MOST_OF_A_SAMPLE]}…"


def _searches(runs: Sequence[SearchRun]) -> Iterator[Block]:
    for run in runs:
        result = run.result
        yield Heading(f"Search, {_title(result.plan.method, run)}")
        if result.sentence:
            yield Paragraph(strong(result.sentence))
        if result.trials:
            yield _trials(result)
        if result.importance:
            shares = (f"{key} {share:.0%}" for key, share in result.importance.items())
            made = ", ".join(shares).replace("%", " %")
            yield Paragraph(f"What made trials good (PED-ANOVA, of few trials): {made}.")
        if result.changes:
            rows = [(key, *map(_shown, sides)) for key, sides in result.changes.items()]
            head = ("Setting", "Given plan", "Best plan")
            yield Table("The best plan against the given one", head, rows)
        yield from bullets(result.notes)


def _trials(result: SearchResult) -> Table:
    keys: list[SearchKey] = [one.key for one in result.searched]
    rows: list[list[Text]] = []
    best = None
    for place, trial in enumerate(result.ranked()):
        is_best = trial.number == result.best
        best = place if is_best else best
        state = "best" if is_best else trial.state.replace("_", " ")
        rows.append(
            [
                str(trial.number),
                *(f"{trial.parameters[key]:g}" for key in keys),
                number(trial.validation_loss, 4),
                duration(trial.seconds),
                [Span(state, "yes" if is_best else "plain"), f" {trial.reason}"],
            ]
        )
    head = ["Trial", *(key.replace("_", " ") for key in keys), "Lowest loss", "Took", "State"]
    sums = frozenset() if best is None else frozenset({best})
    return Table("Trials, best first", head, rows, right(1, len(head) - 1), sums)


def _shown(value: Any) -> str:
    if value is None:
        return "the method's default"
    return f"{value:g}" if isinstance(value, float) else str(value)
