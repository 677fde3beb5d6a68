"""Results as Rich renderables: readable at 80 columns, and without colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from advisor.learn import method_topic
from estimator.estimate import COMPONENTS, PHASES, GpuFit, MemoryEstimate, judged_gpus
from estimator.plan import FineTunePlan
from reports.explain import full_states
from reports.levels import context, sizes
from reports.terminal_probe import details, out_of_memory
from reports.units import GIB, UNKNOWN, count, duration, gib, number, percent
from reports.words import step_size
from trainer.results import ProbeResult

_FIT_STYLES = {"yes": "green", "tight": "yellow", "no": "red"}
_BAR_CELLS = 24


def estimate(reading: MemoryEstimate) -> RenderableType:
    """Show one reading: components, phases, what the GPU must hold, and where it fits."""
    return Group(
        _plan_line(reading.plan, reading),
        "",
        _components(reading),
        _phases_line(reading),
        _sizes(reading),
        _states_line([reading]),
        _gpu_fits([reading]),
        _notes("What moves it", reading.moved_by),
        _notes("Assumed", reading.assumptions),
        _words([reading]),
    )


def comparison(readings: Sequence[MemoryEstimate]) -> RenderableType:
    """Show several methods side by side: components, totals, and where each fits."""
    table = _table("GiB at the peak", *(reading.plan.method for reading in readings))
    for kind in COMPONENTS:
        sizes = [reading.components_bytes.get(kind) for reading in readings]
        if any(sizes) or None in sizes:
            table.add_row(kind.replace("_", " "), *map(_gib_cell, sizes))
    table.add_section()
    table.add_row("allocated", *(_gib_cell(r.peak_allocated_bytes) for r in readings))
    table.add_row("with context", *(_gib_cell(r.smallest_need_bytes) for r in readings))
    table.add_row("weights stored as", *(_stored_as(r.plan) for r in readings))
    table.add_row("trained parameters", *(count(r.parameters.trainable) for r in readings))
    table.add_row("basis", *(r.basis for r in readings))
    notes = dict.fromkeys(note for reading in readings for note in reading.assumptions)
    plan = readings[0].plan
    title = f"{plan.model}: {count(readings[0].parameters.total)} parameters, {_batch(plan)}"
    return Group(
        Text(title, style="bold"),
        "",
        table,
        _states_line(readings),
        _gpu_fits(readings),
        _notes("Assumed", notes),
        _words(readings),
    )


def readings(results: Sequence[ProbeResult]) -> RenderableType:
    """Show, for several probes, formula, dry run and measured peak side by side."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    headings = ("method", "formula", "dry run", "measured", "formula off", "dry run off")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for result in results:
        formula, dry_run, measured = map(_peak, (result.formula, result.dry_run, result.measured))
        table.add_row(
            result.plan.method,
            gib(formula) if formula else "none",
            gib(dry_run),
            "out of memory" if result.out_of_memory else gib(measured),
            percent(formula, measured),
            percent(dry_run, measured),
        )
    where = ", ".join(dict.fromkeys(f"{r.device_name} ({r.device})" for r in results))
    refusals = dict.fromkeys(r.formula_refusal for r in results if r.formula_refusal)
    return Group(
        Text("Peak of allocated memory: formula / dry run / measured", style="bold"),
        Text(f"on {where}", style="dim"),
        table,
        *(Text(f"No formula: {refusal}", style="yellow") for refusal in refusals),
        *(out_of_memory(r.out_of_memory) for r in results if r.out_of_memory),
        _speed([result for result in results if result.num_steps]),
        details(results),
    )


def _speed(results: Sequence[ProbeResult]) -> RenderableType:
    if not results:
        return Text("")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in (
        "method",
        "steps",
        "loss",
        "per step",
        "a step is",
        "tokens/s",
    ):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for result in results:
        table.add_row(
            result.plan.method,
            str(result.num_steps),
            f"{number(result.first_loss)} → {number(result.last_loss)}",
            duration(result.step_seconds_median),
            step_size(result.plan),
            number(result.tokens_per_second, 0),
        )
    return table


def _points(rows: Iterable[tuple[str, str]]) -> Table:
    """Lines with a hanging indent after their mark."""
    table = Table(box=None, show_header=False, pad_edge=True, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    for mark, text in rows:
        table.add_row(mark, Text(text))
    return table


def _share(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


def _plan_line(plan: FineTunePlan, reading: MemoryEstimate) -> RenderableType:
    trained, total = reading.parameters.trainable, reading.parameters.total
    return Group(
        Text(f"{plan.model}: {plan.method}, {_batch(plan)}", style="bold"),
        Text(
            f"{count(total)} parameters, {count(trained)} trained ({trained / total * 100:.3g} %)"
        ),
        Text(f"basis: {reading.basis}, in {duration(reading.seconds)}", style="dim"),
    )


def _stored_as(plan: FineTunePlan) -> str:
    return plan.quantization if plan.is_quantized else plan.weights_dtype


def _batch(plan: FineTunePlan) -> str:
    return f"micro-batch {plan.micro_batch_size} x {plan.seq_len:,} tokens"


def _components(reading: MemoryEstimate) -> Table:
    table = _table(f"at the peak ({reading.peak_phase})", "memory", "share", "")
    for kind in COMPONENTS:
        size = reading.components_bytes.get(kind)
        if size is None or size:
            share = (size or 0) / reading.peak_allocated_bytes
            bar = Text("█" * round(share * _BAR_CELLS), style="cyan")
            shown = "" if size is None else _share(share)
            table.add_row(kind.replace("_", " "), gib(size), shown, bar)
    table.columns[3].justify = "left"
    return table


def _phases_line(reading: MemoryEstimate) -> RenderableType:
    peaks = ", ".join(f"{phase} {gib(reading.phases_bytes.get(phase))}" for phase in PHASES)
    return Text(f"Peak of each phase: {peaks}")


def _sizes(reading: MemoryEstimate) -> RenderableType:
    """From allocated to what nvidia-smi shows: likely, and between what limits."""
    table = _table("which number", "likely", "low to high", "basis", right=(1,))
    for size in sizes(reading):
        table.add_row(size.name, size.likely, size.spread, size.basis)
    if reading.device == "cuda":
        table.add_row("of it CUDA context", gib(context(reading)))
    return Group("", table)


def _states_line(estimates: Sequence[MemoryEstimate]) -> RenderableType:
    return Padding(Text(full_states(estimates) or ""), (1, 0, 0, 0))


def _gpu_fits(estimates: Sequence[MemoryEstimate]) -> RenderableType:
    gpus = judged_gpus(estimates)
    if not gpus:
        return Text("")
    methods = [one.plan.method for one in estimates] if len(estimates) > 1 else ["fits, GiB left"]
    table = _table("GPU", "memory", *methods)
    for gpu in gpus:
        fits = [one.fit_on(gpu.name) for one in estimates]
        table.add_row(escape(gpu.name), gib(gpu.memory_bytes), *map(_fit_cell, fits))
    legend = (
        "yes: fits; tight: fits once the allocator gives its cache back; in brackets, the GiB "
        "that are then left"
    )
    return Group("", table, Text(legend, style="dim"))


def _fit_cell(fit: GpuFit | None) -> Text:
    if fit is None:
        return Text("not judged", style="dim")
    return Text(f"{fit.fits} ({fit.headroom_bytes / GIB:+.1f})", style=_FIT_STYLES[fit.fits])


def _notes(heading: str, notes: Iterable[str]) -> RenderableType:
    notes = list(notes)
    if not notes:
        return Text("")
    return Group("", Text(heading, style="bold"), _points(("-", note) for note in notes))


def _words(readings: Sequence[MemoryEstimate]) -> Text:
    topics = " | ".join(dict.fromkeys(method_topic(one.plan.method) for one in readings))
    return Text(f"The words are explained by: tuneplan learn {topics}", style="dim")


def _table(first: str, *others: str, right: tuple[int, ...] | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(first)
    for index, heading in enumerate(others, start=1):
        is_right = right is None or index in right
        table.add_column(heading, justify="right" if is_right else "left")
    return table


def _peak(reading: MemoryEstimate | None) -> int | None:
    return reading.peak_allocated_bytes if reading else None


def _gib_cell(size_bytes: int | None) -> str:
    if size_bytes is None:
        return UNKNOWN
    return f"{size_bytes / GIB:,.2f}" if size_bytes else "0"
