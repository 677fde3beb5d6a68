"""A calibrated estimate in words that terminal and page share: never without the plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from estimator.calibrated import Calibrated
from estimator.calibration import Calibration, Figure
from estimator.estimate import Level
from estimator.throughput import Span
from reports.levels import LEVEL_NAMES, LEVELS
from reports.outlook import hours
from reports.units import MIB, UNKNOWN, duration, gib, size_range


@dataclass(frozen=True, slots=True)
class CalibratedSize:
    """One size in words: as the estimate has it, and as the lessons move it."""

    level: Level
    name: str
    plain: str
    calibrated: str
    spread: str


def headline(found: Calibrated) -> str:
    """Return the total (or what is known of it) in one sentence, calibrated beside plain."""
    level: Level | None = next(
        (one for one in reversed(LEVELS) if one in found.calibrated_bytes), None
    )
    by = taught_by(found.calibration)
    if level is None:
        return f"Calibrated {by}: nothing about memory."
    likely = gib(found.calibrated_bytes[level].likely_bytes)
    return f"Calibrated {by}: {level} {likely} (plain {gib(found.plain_bytes[level])})"


def taught_by(calibration: Calibration) -> str:
    """Return whose lessons these are, how many, of what and from when."""
    many = calibration.num_lessons
    what = "probe" if calibration.source == "own" else "imported lesson"
    when = str(calibration.newest)
    if calibration.oldest != calibration.newest:
        when = f"{calibration.oldest} to {calibration.newest}"
    return f"by {many} {what}{'s' if many > 1 else ''} on {calibration.device_name} ({when})"


def sizes(found: Calibrated) -> list[CalibratedSize]:
    """Return each size that the lessons speak of."""
    rows = []
    for level in LEVELS:
        band = found.calibrated_bytes.get(level)
        if band is None:
            continue
        has_spread = band.low_bytes != band.high_bytes
        spread = size_range(band.low_bytes, band.high_bytes) if has_spread else ""
        plain, likely = gib(found.plain_bytes[level]), gib(band.likely_bytes)
        rows.append(CalibratedSize(level, LEVEL_NAMES[level], plain, likely, spread))
    return rows


def verdict(found: Calibrated) -> str:
    """Return what becomes of the verdict on the plan's GPU, "" where nothing is known."""
    if found.calibrated_fits is None:
        return ""
    if found.calibrated_fits == found.plain_fits:
        return f"Fits: {found.plain_fits}, calibrated as plain."
    return f"Fits: {found.calibrated_fits} calibrated, {found.plain_fits} plain."


def time(found: Calibrated) -> str:
    """Return the time calibrated and by the model, "" where the lessons say nothing of it."""
    step, model = found.calibrated_step_seconds, found.plain_step_seconds
    if step is None or model is None:
        return ""
    factor = found.calibration.time_factor
    many = f" by {factor.num_lessons} alike" if factor else ""
    sentence = (
        f"A step takes {duration(step.likely)} calibrated{many}, "
        f"{duration(model.low)} to {duration(model.high)} by the model"
    )
    run, run_model = found.calibrated_hours, found.plain_hours
    if run is None or run_model is None:
        return f"{sentence}."
    return f"{sentence}; the run {hours(run.likely)} calibrated, {_range(run_model)} by the model."


def _range(span: Span) -> str:
    return f"{hours(span.low)} to {hours(span.high)}"


def figures(calibration: Calibration) -> list[tuple[str, str, str, str]]:
    """Return what was learnt: name, median, lowest to highest, number of lessons."""
    rows = [
        ("CUDA context", calibration.context_bytes, _mib),
        ("allocated: measured - dry run", calibration.allocated_offset_bytes, _offset),
        ("allocated: measured - formula", calibration.formula_offset_bytes, _offset),
        ("reserved: measured - dry run", calibration.reserved_offset_bytes, _offset),
        ("reserved / allocated", calibration.cache_share, _ratio),
        ("step time / time model", calibration.time_factor, _ratio),
        ("matrix products", calibration.flops_per_second, _gflops),
        ("of the dense peak (MFU)", calibration.mfu, _percent),
    ]
    return [
        (name, show(one.median), _spread(one, show), str(one.num_lessons))
        for name, one, show in rows
        if one
    ]


def _spread(one: Figure, show: Callable[[float], str]) -> str:
    low, high = show(one.low), show(one.high)
    if one.num_lessons == 1 or low == high:
        return ""
    same_unit = " " in low and low.split()[-1] == high.split()[-1]
    return f"{low.rsplit(' ', 1)[0] if same_unit else low} to {high}"


def _mib(value: float) -> str:
    return f"{value / MIB:,.1f} MiB"


def _offset(value: float) -> str:
    mib = round(value / MIB, 1)
    return f"{mib:+,.1f} MiB" if mib else "0 MiB"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _gflops(value: float) -> str:
    return f"{value / 1e9:,.1f} GFLOP/s"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def stack(software: dict[str, str]) -> str:
    """Return libraries with their versions."""
    return ", ".join(f"{name} {number}" for name, number in software.items()) or UNKNOWN
