"""Time and the peaks beside the step, in the words that terminal, HTML and pages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from estimator.other_peaks import OtherPeaks
from estimator.throughput import Span, Throughput
from reports.units import UNKNOWN, duration, gb, gib

_USES = {
    "training": "one training step",
    "load": "loading the model",
    "evaluation": "an evaluation batch",
    "generation": "generating text",
    "saving": "saving",
}
_HOST = {
    "loading": "loading the weights",
    "optimizer_states": "paged optimizer states",
    "saving": "saving: the file being written",
}
_DISK = {
    "download": "downloaded weights",
    "checkpoint": "one checkpoint",
    "checkpoints": "checkpoints at most",
    "result": "the result",
}
_PARTS = {
    "linears": "linear layers",
    "adapters": "adapters",
    "attention": "attention scores",
    "head": "output head",
}

Rows = list[tuple[str, str]]
Column = tuple[str, list[str]]


def time_sentence(time: Throughput) -> str:
    """Return how fast the step is and how long the run takes, each with its range."""
    if time.step_seconds is None or time.tokens_per_second is None:
        return f"Time on {time.gpu}: {UNKNOWN}. {time.unknown}"
    sentence = (
        f"Time on {time.gpu}: about {_ranged(time.tokens_per_second, _rate)} tokens/s, "
        f"{_ranged(time.step_seconds, duration)} a step"
    )
    if time.hours is None:
        return f"{sentence}. The whole run's time needs data.num_examples in the plan."
    return (
        f"{sentence}; {time.num_steps:,} steps take {_ranged(time.hours, hours)}, loading and "
        "evaluation aside."
    )


def _ranged(span: Span, show: Callable[[float], str]) -> str:
    return f"{show(span.likely)} ({show(span.low)} to {show(span.high)})"


def _rate(value: float) -> str:
    """Three digits: the range is wider than what a fourth would say."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def hours(value: float) -> str:
    """Return a time in the unit that people would plan in, with two digits or three."""
    if value * 60 < 2:
        return duration(value * 3600)
    if value * 60 < 100:
        return f"{value * 60:.0f} min"
    return f"{value:,.1f} h" if value < 48 else f"{value / 24:,.1f} days"


def arithmetic(time: Throughput) -> dict[str, dict[str, int]]:
    """Return the floating-point operations of one step: a row for each part, a column a pass."""
    found: dict[str, dict[str, int]] = {}
    for name, flops in time.flops_per_step.items():
        part, _, when = name.partition("_")
        found.setdefault(_PARTS[part], {})[when] = flops
    return found


def arithmetic_rows(time: Throughput) -> Rows:
    """Return the floating-point operations of one step by pass, and their sum."""
    parts = arithmetic(time).values()
    passes = ("forward", "recompute", "backward")
    sums = [(when, sum(part.get(when, 0) for part in parts)) for when in passes]
    rows = [(f"matrix products, {when}", tera(flops)) for when, flops in sums]
    return [*rows, ("matrix products, one step", tera(time.total_flops_per_step))]


def columns(found: Sequence[Any], rows: Callable[[Any], Rows]) -> list[Column]:
    """Return the rows of several plans side by side: a name, and a cell for each plan."""
    tables = [dict(rows(one)) for one in found]
    names = dict.fromkeys(name for table in tables for name in table)
    return [(name, [table.get(name, "0") for table in tables]) for name in names]


def tera(flops: int | None) -> str:
    """Return floating-point operations in units of 10^12 (``1,386 TFLOP``)."""
    if flops is None:
        return UNKNOWN
    value = flops / 1e12
    return f"{value:,.0f} TFLOP" if value >= 100 else f"{value:.3g} TFLOP" if value else "0"


def gpu_rows(peaks: OtherPeaks) -> Rows:
    """Return what each use of the GPU allocates at its peak; the largest is marked."""
    rows = []
    for use, size in peaks.gpu_bytes.items():
        mark = "largest: " if use == peaks.largest else ""
        rows.append((_USES[use], mark + gib(size)))
    if peaks.kv_cache_bytes is not None:
        rows.append(("of generating text: keys and values", gib(peaks.kv_cache_bytes)))
    return rows


def other_rows(peaks: OtherPeaks) -> Rows:
    """Return what main memory and the disk must hold; uses that take nothing are left out."""
    host = [(f"memory: {_HOST[use]}", gib(size)) for use, size in peaks.host_bytes.items() if size]
    disk = [(f"disk: {_DISK[use]}", gb(size)) for use, size in peaks.disk_bytes.items()]
    return [*host, *disk]


def peak_notes(peaks: OtherPeaks) -> Iterator[str]:
    """Yield why values are not known, and what the others assume."""
    for reason in dict.fromkeys(peaks.unknown.values()):
        uses = [use for use, why in peaks.unknown.items() if why == reason]
        yield f"Not known ({', '.join(uses)}): {reason}"
    yield from peaks.assumptions
