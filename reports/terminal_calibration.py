"""Calibration as Rich renderables: beside an estimate, and by itself."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from estimator.calibrated import Calibrated
from estimator.calibration import Calibration
from estimator.lesson_files import Kept
from estimator.lessons import Lesson, Peaks
from reports import calibrated as words
from reports.units import UNKNOWN, count, duration, gib, number

_NOTHING = "Nothing learnt yet: each `tuneplan probe PLAN` teaches a lesson."


def beside(found: Calibrated | None) -> RenderableType:
    """Show what lessons make of an estimate, its plain values in the same lines."""
    if found is None:
        return Text("")
    table = _table("calibrated", "plain", "calibrated", "by each lesson")
    for size in words.sizes(found):
        table.add_row(size.name, size.plain, size.calibrated, size.spread)
    parts: list[RenderableType] = [Text(words.headline(found), style="bold")]
    if table.row_count:
        parts.append(table)
    parts += [Text(text) for text in (words.verdict(found), words.time(found)) if text]
    parts += [Text(note, style="yellow") for note in found.calibration.notes]
    return Padding(Group(*parts), (1, 0))


def lessons(kept: Kept) -> RenderableType:
    """List lessons, newest first."""
    if not kept.lessons and not kept.damaged:
        return Text(_NOTHING)
    lines: list[Text] = []
    for one in reversed(kept.lessons):
        about = f"{one.made_on}  {one.step.method}, {one.step.model}"
        figures = gib(_largest(one.measured))
        if one.step_seconds is not None:
            figures += f", {duration(one.step_seconds)} a step"
        lines += [Text.assemble((one.id, "bold"), f"  {one.device_name}")]
        lines += [Text(f"  {about}: {figures}")]
    marks = [
        f"{one.id}: imported from {one.imported_from}" for one in kept.lessons if one.imported_from
    ]
    damaged = [f"{name} cannot be read and is left out." for name in kept.damaged]
    return Group(*lines, *(Text(text, style="yellow") for text in (*marks, *damaged)))


def _largest(peaks: Peaks) -> int:
    return peaks.total_bytes or peaks.reserved_bytes or peaks.allocated_bytes


def learnt(found: Sequence[Calibration]) -> RenderableType:
    """Show what the lessons of each device and set of libraries say together."""
    if not found:
        return Text(_NOTHING)
    parts: list[RenderableType] = []
    for one in found:
        parts.append(Text(f"{words.taught_by(one)}".removeprefix("by "), style="bold"))
        parts.append(Text(words.stack(one.stack), style="dim"))
        table = _table("", "median", "low to high", "lessons", right=(1, 3))
        for row in words.figures(one):
            table.add_row(*row)
        parts.append(table)
        parts += [Text(note, style="yellow") for note in one.notes]
    return Group(*parts)


def lesson(one: Lesson) -> RenderableType:
    """Show one lesson with its evidence."""
    table = _table("", "measured", "dry run", "formula")
    readings = (one.measured, one.dry_run, one.formula)
    for name in ("allocated", "reserved", "context", "total"):
        values = [getattr(peaks, f"{name}_bytes") if peaks else None for peaks in readings]
        table.add_row(name, *(UNKNOWN if value is None else f"{value:,} B" for value in values))
    step = one.step
    facts = [
        f"{step.method} of {step.model}: {count(step.parameters)} parameters, "
        f"{count(step.trainable)} trained, {step.quantization} quantization, {step.optimizer}",
        f"micro-batch {step.micro_batch_size} x {step.seq_len:,}, {step.attention} attention, "
        f"{'with' if step.gradient_checkpointing else 'without'} checkpointing",
        f"{words.stack(one.software)}, driver {one.driver or UNKNOWN}, tuneplan {one.tuneplan}",
        f"{one.num_steps} steps, {duration(one.step_seconds)} each; "
        f"{number(one.tokens_per_second, 0)} tokens/s",
    ]
    if one.model_step_seconds:
        facts.append(f"the time model's likely step: {duration(one.model_step_seconds)}")
    if one.mfu:
        facts.append(f"{100 * one.mfu:.1f} % of the GPU's dense peak (MFU)")
    if one.had_memory_limit:
        facts.append("under a memory limit: it teaches neither cache nor time")
    if one.imported_from:
        facts.append(f"imported from {one.imported_from}")
    title = Text(f"{one.id}: {one.device_name}, {one.made_on}", style="bold")
    return Group(title, *map(Text, facts), table)


def _table(*headings: str, right: tuple[int, ...] | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for index, heading in enumerate(headings):
        is_right = index > 0 if right is None else index in right
        table.add_column(heading, justify="right" if is_right else "left", overflow="fold")
    return table
