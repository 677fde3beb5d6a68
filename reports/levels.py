"""An estimate's sizes, each with its name: which number it is, and between what limits it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from estimator.estimate import Band, Level, MemoryEstimate
from reports.units import gib, size_range
from reports.words import basis_name

LEVELS: tuple[Level, ...] = get_args(Level)

LEVEL_NAMES: dict[Level, str] = {
    "allocated": "allocated in live tensors",
    "reserved": "reserved by the allocator",
    "total": "total, as nvidia-smi shows",
}


@dataclass(frozen=True, slots=True)
class Size:
    """One of an estimate's sizes in words; ``spread`` is empty where it is known exactly."""

    level: Level
    name: str
    likely: str
    spread: str
    basis: str


def sizes(estimate: MemoryEstimate) -> list[Size]:
    """Return what is allocated, reserved and in total; on a CPU there is only what is allocated.

    A formula knows what is allocated; what it says of the others is assumed.
    """
    levels = LEVELS if estimate.device == "cuda" else LEVELS[:1]
    return [size(estimate, level) for level in levels]


def size(estimate: MemoryEstimate, level: Level) -> Size:
    """Return one of :func:`sizes`."""
    band = estimate.bands.get(level)
    likely = band.likely_bytes if band else _without_band(estimate, level)
    is_assumed = estimate.basis == "formula" and level != "allocated"
    basis = "" if likely is None else "assumed" if is_assumed else basis_name(estimate)
    return Size(level, LEVEL_NAMES[level], gib(likely), _spread(band), basis)


def context(estimate: MemoryEstimate) -> int | None:
    """Return the bytes of the CUDA context in an estimate's total, None where it is not known."""
    total, reserved = estimate.bands.get("total"), estimate.bands.get("reserved")
    if estimate.context_bytes is None and total and reserved:
        return total.likely_bytes - reserved.likely_bytes
    return estimate.context_bytes


def _without_band(estimate: MemoryEstimate, level: Level) -> int | None:
    """Return the size itself: results that were saved by earlier versions have no bands."""
    return {
        "allocated": estimate.peak_allocated_bytes,
        "reserved": estimate.peak_reserved_bytes,
        "total": estimate.total_bytes,
    }[level]


def _spread(band: Band | None) -> str:
    if band is None or band.low_bytes == band.high_bytes:
        return ""
    return size_range(band.low_bytes, band.high_bytes)
