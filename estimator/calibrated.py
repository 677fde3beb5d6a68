"""An estimate as it was and as lessons correct it, side by side."""

from __future__ import annotations

from typing import Any

from estimator.calibration import Calibration, Figure
from estimator.estimate import Band, Fits, Level, MemoryEstimate
from estimator.records import Record
from estimator.throughput import Span, Throughput


class Calibrated(Record):
    """An estimate as it was and as the lessons correct it; neither replaces the other.

    A level or a time that the lessons say nothing about is missing, or None.
    """

    plain_bytes: dict[Level, int | None]
    calibrated_bytes: dict[Level, Band]
    plain_fits: Fits
    calibrated_fits: Fits | None
    plain_step_seconds: Span | None
    calibrated_step_seconds: Span | None
    plain_hours: Span | None
    calibrated_hours: Span | None
    calibration: Calibration


def apply(calibration: Calibration, estimate: MemoryEstimate, time: Throughput) -> Calibrated:
    """Return an estimate and its time beside what a calibration makes of them.

    Allocated is moved by the offset of the estimate's own reading. A dry run's reserved is moved
    by its offset; a formula has replayed no allocator, so its reserved is the calibrated allocated
    times the measured cache share. The total is reserved, calibrated where it can be, and the
    measured context.
    """
    is_dry = estimate.basis == "dry-run"
    offset = calibration.allocated_offset_bytes if is_dry else calibration.formula_offset_bytes
    sizes: dict[Level, Band] = {}
    if offset:
        sizes["allocated"] = _moved(estimate.peak_allocated_bytes, offset)
    reserved = _reserved(calibration, estimate, sizes.get("allocated"))
    if reserved:
        sizes["reserved"] = reserved
    plain = _plain(estimate)
    held = reserved or estimate.bands.get("reserved")
    if held and calibration.context_bytes:
        sizes["total"] = _sum(held, calibration.context_bytes)
    factor = calibration.time_factor
    return Calibrated(
        plain_bytes=plain,
        calibrated_bytes=sizes,
        plain_fits=estimate.fit(estimate.plan.gpu_spec).fits,
        calibrated_fits=_fits(estimate, sizes, offset, calibration.context_bytes),
        plain_step_seconds=time.step_seconds,
        calibrated_step_seconds=_timed(time.step_seconds, factor),
        plain_hours=time.hours,
        calibrated_hours=_timed(time.hours, factor),
        calibration=calibration,
    )


def _plain(estimate: MemoryEstimate) -> dict[Level, int | None]:
    """Return the sizes as they are shown without a calibration."""
    known: dict[Level, int | None] = {
        "allocated": estimate.peak_allocated_bytes,
        "reserved": estimate.peak_reserved_bytes,
        "total": estimate.total_bytes,
    }
    likely = {level: band.likely_bytes for level, band in estimate.bands.items()}
    return {level: size if size is not None else likely.get(level) for level, size in known.items()}


def _moved(size_bytes: int, offset: Figure) -> Band:
    return Band(
        low_bytes=max(0, size_bytes + round(offset.low)),
        likely_bytes=max(0, size_bytes + round(offset.median)),
        high_bytes=max(0, size_bytes + round(offset.high)),
    )


def _sum(band: Band, more: Figure) -> Band:
    return Band(
        low_bytes=band.low_bytes + round(more.low),
        likely_bytes=band.likely_bytes + round(more.median),
        high_bytes=band.high_bytes + round(more.high),
    )


def _reserved(
    calibration: Calibration, estimate: MemoryEstimate, allocated: Band | None
) -> Band | None:
    if estimate.peak_reserved_bytes is not None:
        offset = calibration.reserved_offset_bytes
        return _moved(estimate.peak_reserved_bytes, offset) if offset else None
    share = calibration.cache_share
    if share is None or allocated is None:
        return None
    return Band(
        low_bytes=round(allocated.low_bytes * share.low),
        likely_bytes=round(allocated.likely_bytes * share.median),
        high_bytes=round(allocated.high_bytes * share.high),
    )


def _timed(span: Span | None, factor: Figure | None) -> Span | None:
    if span is None or factor is None:
        return None
    return Span(
        low=span.likely * factor.low,
        likely=span.likely * factor.median,
        high=span.likely * factor.high,
    )


def _fits(
    estimate: MemoryEstimate,
    sizes: dict[Level, Band],
    offset: Figure | None,
    context: Figure | None,
) -> Fits | None:
    """Return the verdict on the plan's own GPU with the calibrated sizes, as for plain ones."""
    allocated, reserved = sizes.get("allocated"), sizes.get("reserved")
    if allocated is None or reserved is None or offset is None:
        return None
    found: dict[str, Any] = {
        "peak_allocated_bytes": allocated.likely_bytes,
        "peak_reserved_bytes": reserved.likely_bytes,
    }
    if estimate.smallest_fit_bytes is not None:
        found["smallest_fit_bytes"] = estimate.smallest_fit_bytes + round(offset.median)
    if context:
        found["context_bytes"] = round(context.median)
    return estimate.model_copy(update=found).fit(estimate.plan.gpu_spec).fits
