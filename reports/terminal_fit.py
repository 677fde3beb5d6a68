"""What fits a GPU, as Rich renderables: readable at 80 columns, and without colour."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from estimator.cheapest import GpuOffer
from estimator.estimate import MemoryEstimate
from estimator.fit import WeighedChange, changes_that_fit
from estimator.fit_report import FitReport
from estimator.limits import Limit
from reports.units import UNKNOWN, gib, usd
from reports.words import TRAINING_WORDS, makes_it_fit

_STYLES = {"yes": "green", "tight": "yellow", "no": "red"}
_OFFERS_SHOWN = 8
_LEGEND = (
    "same: the same mathematics. nearly: the same up to rounding that is on purpose. "
    "different: it trains something else, or on something else."
)


def fit(report: FitReport) -> RenderableType:
    """Show whether a plan fits its GPU, how far it can grow, and what would make it fit."""
    return Group(
        _verdict(report),
        "",
        _limits(report),
        _methods(report),
        _changes(report),
        *_stack(report),
        _offers(report.cheapest_gpus),
        *_notes(report),
    )


def suggestions(reading: MemoryEstimate) -> RenderableType:
    """Show changes of which any one makes a plan fit its GPU; nothing where it fits already."""
    gpu = reading.plan.gpu_spec
    if reading.fit(gpu).fits != "no":
        return Text("")
    changes = changes_that_fit(reading.plan, gpu.memory_bytes)
    if not changes:
        return Text(f"\nNo single change makes it fit {gpu.name}; see tuneplan fit.")
    lines = [f"  --set {one.override}  (peak {gib(one.peak_allocated_bytes)})" for one in changes]
    head = f"{gpu.name}: {makes_it_fit(len(lines))}"
    return Text("\n".join(["", head, *lines]), style="yellow")


def _verdict(report: FitReport) -> RenderableType:
    plan = report.plan
    words = {
        "yes": f"fits, {gib(report.headroom_bytes)} free",
        "tight": f"tight, {gib(report.headroom_bytes)} free",
        "no": f"does not fit, {gib(-report.headroom_bytes)} short",
    }
    checked = (
        f"confirmed by dry run ({report.num_dry_runs} made)"
        if report.confirmed_by
        else "by the formula, not confirmed by a dry run"
    )
    size = f"micro-batch {plan.micro_batch_size} x {plan.seq_len:,} tokens"
    return Group(
        Text(f"{plan.model}: {plan.method}, {size}", style="bold"),
        Text(
            f"{report.gpu} ({gib(report.gpu_memory_bytes)}): {words[report.fits]}; peak allocated "
            f"{gib(report.peak_allocated_bytes)}",
            style=_STYLES[report.fits],
        ),
        Text(checked, style="dim"),
    )


def _limits(report: FitReport) -> RenderableType:
    batch = f"largest micro-batch at {report.plan.seq_len:,} tokens"
    length = f"longest sequence at micro-batch {report.plan.micro_batch_size}"
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    table.add_row(batch, *_limit(report.micro_batch_limit))
    value, remark = _limit(report.seq_len_limit)
    longest, trained = report.seq_len_limit.value, report.trained_length
    if longest and trained and longest > trained:
        beyond = f"the model was made for {trained:,}"
        remark = f"{remark}; {beyond}" if remark else beyond
    table.add_row(length, value, remark)
    return table


def _limit(limit: Limit) -> tuple[str, str]:
    """Return a limit's number and what has to be said about it."""
    if limit.basis is None:
        return UNKNOWN, ""
    if limit.value is None:
        return "none", ""
    remarks = ["tight"] if limit.fits == "tight" else []
    if not limit.is_exact:
        more = f"{limit.too_large:,} does not fit" if limit.too_large else "more was not read"
        remarks.append(f"the largest tried; {more}")
    return f"{limit.value:,}", ", ".join(remarks)


def _methods(report: FitReport) -> RenderableType:
    table = _table("method", ("peak", "fits", "largest batch", "longest sequence"))
    for one in report.methods:
        table.add_row(
            one.method,
            gib(one.peak_allocated_bytes),
            Text(one.fits, style=_STYLES[one.fits]),
            _count(one.largest_micro_batch_size),
            _count(one.longest_seq_len),
        )
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _changes(report: FitReport) -> RenderableType:
    if not report.changes:
        return Text("")
    return Group(
        Text("What single changes save, least disturbing first", style="bold"),
        _change_table(report.changes),
        Text(_LEGEND, style="dim"),
    )


def _stack(report: FitReport) -> list[RenderableType]:
    if report.fits == "yes":
        return []
    if report.stack_fits not in ("yes", "tight"):
        title = "No stack of these changes makes it fit; this saves most"
    else:
        title = "The mildest changes that together make it fit"
        title += ", confirmed by dry run" if report.stack_confirmed_by else ""
    if not report.stack:
        return ["", Text("No change to the plan makes it fit.", style="bold")]
    sets = " ".join(f"--set {change.override}" for change in report.stack)
    table = _change_table(report.stack)
    return ["", Text(title, style="bold"), table, Text(f"typed: {sets}")]


def _change_table(changes: Sequence[WeighedChange]) -> Table:
    table = _table("change", ("saves", "peak", "fits", "training"))
    for one in changes:
        table.add_row(
            one.text,
            "-" if one.saves_bytes is None else gib(one.saves_bytes),
            gib(one.peak_allocated_bytes),
            Text(one.fits, style=_STYLES[one.fits]),
            TRAINING_WORDS[one.training],
        )
    return table


def _offers(offers: Sequence[GpuOffer]) -> RenderableType:
    if not offers:
        return Group("", Text("No GPU of the catalogue fits this plan.", style="bold"))
    table = _table("GPU", ("fits", "USD/hour", "from", "on"))
    for one in offers[:_OFFERS_SHOWN]:
        several = f", {one.min_gpus} GPUs" if one.min_gpus and one.min_gpus > 1 else ""
        table.add_row(
            one.gpu,
            Text(one.fits, style=_STYLES[one.fits]),
            usd(one.usd_per_hour),
            f"{one.provider}, {one.tier}{several}" if one.provider else "",
            str(one.checked_at or ""),
        )
    return Group("", Text("GPUs that this plan fits, cheapest hour first", style="bold"), table)


def _notes(report: FitReport) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for title, notes in (("Not read", report.not_read), ("Assumed", report.notes)):
        if notes:
            parts += ["", Text(title, style="bold"), *(Text(f"- {note}") for note in notes)]
    return parts


def _table(first: str, others: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(first)
    for heading in others:
        words = heading in ("from", "on", "training", "fits")
        table.add_column(heading, justify="left" if words else "right")
    return table
