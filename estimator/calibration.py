"""What probes on a GPU taught: constant offsets of its memory, and how fast it really is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from statistics import median
from typing import Any, Literal

from estimator.estimate import Band, Fits, Level, MemoryEstimate
from estimator.gpu_names import is_same_gpu
from estimator.lessons import Lesson, stack_of
from estimator.plan import FineTunePlan
from estimator.records import Record
from estimator.throughput import Span, Throughput

STALE_DAYS = 180
"""Drivers and libraries of half a year ago are seldom those of today."""

MIB = 2**20

CONTEXT_AGREES_BYTES = 64 * MIB
"""Contexts of one GPU and driver differ by the kernels that were loaded: tens of MiB."""

ALLOCATED_AGREES_BYTES = 64 * MIB
"""Workspaces are 8 or 32 MiB each, of which a step has two."""

CACHE_AGREES = 0.10
"""Reserved / allocated: what two probes of one GPU may differ by and still be called agreeing."""

TIME_AGREES = 1.5
"""Slowest by fastest, each measured by its model."""

Source = Literal["own", "imported"]


class Figure(Record):
    """One figure that several lessons give: their median, and between what it was seen."""

    median: float
    low: float
    high: float
    num_lessons: int


class Calibration(Record):
    """What lessons of one GPU and one set of libraries say together, None where they cannot.

    ``allocated_offset_bytes`` and ``reserved_offset_bytes`` are measured less the dry run's,
    ``formula_offset_bytes`` is measured allocated less the formula's. ``cache_share`` is measured
    reserved / allocated, ``time_factor`` the measured step by the likely one of the time model,
    ``flops_per_second`` what the step's matrix products came to. ``lessons`` are those whose
    weights are stored as the plan's, ``num_lessons`` is their number; fewer may teach a figure.
    """

    device_name: str
    stack: dict[str, str]
    source: Source
    num_lessons: int
    newest: date
    oldest: date
    lessons: tuple[str, ...]
    context_bytes: Figure | None = None
    allocated_offset_bytes: Figure | None = None
    reserved_offset_bytes: Figure | None = None
    formula_offset_bytes: Figure | None = None
    cache_share: Figure | None = None
    time_factor: Figure | None = None
    flops_per_second: Figure | None = None
    mfu: Figure | None = None
    notes: tuple[str, ...] = ()


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


def calibrate(
    lessons: Iterable[Lesson],
    device_name: str,
    software: dict[str, str],
    *,
    today: date,
    plan: FineTunePlan | None = None,
) -> Calibration | None:
    """Return what lessons teach about a GPU (or processor) with certain libraries.

    Only lessons of the same device model count, whose torch, transformers, peft and bitsandbytes
    have the same major.minor. Imported lessons count only where there are none of one's own.

    The context is a constant of GPU and driver. The offsets are constants of workspaces and of
    what loading leaves behind, which depends on how weights are stored: lessons with the plan's
    ``quantization`` alone teach them. Time also depends on the attention kernel. Lessons of
    another kind do not stand in: with published rows they made estimates worse. Nothing is fitted
    to sizes: an estimate is moved, not scaled, but for the cache of a reading that has replayed
    none. Known error: docs/calibration.md.

    Args:
        lessons: In any order.
        device_name: As the driver or the catalogue calls it.
        software: Versions of the libraries.
        today: To tell what is old.
        plan: The step to calibrate for; without one all lessons are taken together.
    """
    stack = stack_of(software)
    alike = [
        one for one in lessons if is_same_gpu(one.device_name, device_name) and one.stack == stack
    ]
    own = [one for one in alike if not one.imported_from]
    chosen = sorted(own or alike, key=lambda one: (one.made_on, one.id))
    if not chosen:
        return None
    stored = _like(chosen, plan, _stored_alike)
    used = stored or chosen  # without any that is like the plan there is still the context
    timed = _like(stored, plan, _computed_alike)
    found = {
        "context_bytes": _figure(one.measured.context_bytes for one in chosen),
        "allocated_offset_bytes": _figure(map(_allocated_offset, stored)),
        "reserved_offset_bytes": _figure(map(_reserved_offset, stored)),
        "formula_offset_bytes": _figure(map(_formula_offset, stored)),
        "cache_share": _figure(map(_cache_share, stored)),
        "time_factor": _figure(map(_time_factor, timed)),
        "flops_per_second": _figure(one.flops_per_second for one in timed if one.teaches_time),
        "mfu": _figure(one.mfu for one in timed if one.teaches_time),
    }
    dates = [one.made_on for one in used]
    return Calibration(
        device_name=chosen[-1].device_name,
        stack=stack,
        source="own" if own else "imported",
        num_lessons=len(used),
        newest=max(dates),
        oldest=min(dates),
        lessons=tuple(one.id for one in used),
        notes=(
            *_gaps(stored, timed, plan),
            *_age(dates, today),
            *_disagreements(found),
            *_origin(used, own),
        ),
        **found,
    )


def _like(
    lessons: list[Lesson],
    plan: FineTunePlan | None,
    is_alike: Callable[[Lesson, FineTunePlan], bool],
) -> list[Lesson]:
    return [one for one in lessons if plan is None or is_alike(one, plan)]


def _stored_alike(lesson: Lesson, plan: FineTunePlan) -> bool:
    return lesson.step.quantization == plan.quantization


def _computed_alike(lesson: Lesson, plan: FineTunePlan) -> bool:
    return _stored_alike(lesson, plan) and lesson.step.attention == plan.attention


def _figure(values: Iterable[float | None]) -> Figure | None:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    middle = median(known)
    return Figure(median=middle, low=known[0], high=known[-1], num_lessons=len(known))


def _allocated_offset(one: Lesson) -> int | None:
    if one.dry_run is None or not one.teaches_allocated:
        return None
    return one.measured.allocated_bytes - one.dry_run.allocated_bytes


def _formula_offset(one: Lesson) -> int | None:
    if one.formula is None or not one.teaches_allocated:
        return None
    return one.measured.allocated_bytes - one.formula.allocated_bytes


def _reserved_offset(one: Lesson) -> int | None:
    before = one.dry_run.reserved_bytes if one.dry_run else None
    measured = one.measured.reserved_bytes
    if before is None or measured is None or not one.teaches_reserved:
        return None
    return measured - before


def _cache_share(one: Lesson) -> float | None:
    reserved = one.measured.reserved_bytes
    if reserved is None or not one.teaches_reserved:
        return None
    return reserved / one.measured.allocated_bytes


def _time_factor(one: Lesson) -> float | None:
    if not (one.teaches_time and one.step_seconds and one.model_step_seconds):
        return None
    return one.step_seconds / one.model_step_seconds


def _gaps(stored: list[Lesson], timed: list[Lesson], plan: FineTunePlan | None) -> list[str]:
    """Say what no lesson is like the plan enough to teach."""
    if plan is None:
        return []
    kind = f"{plan.quantization} quantization"
    if not stored:
        return [f"No lesson has {kind}: of this plan only the CUDA context is known."]
    if not timed:
        return [f"No lesson has {kind} and {plan.attention} attention: the time stays the model's."]
    return []


def _age(dates: list[date], today: date) -> list[str]:
    old = sum(one < today - timedelta(days=STALE_DAYS) for one in dates)
    if not old:
        return []
    which = "Every lesson is" if old == len(dates) else f"{old} of {len(dates)} lessons are"
    return [f"{which} older than {STALE_DAYS} days: probe again."]


def _disagreements(found: dict[str, Figure | None]) -> list[str]:
    """Say where the lessons differ by more than what is constant of a GPU may."""
    notes = []
    for name, what, most in (
        ("context_bytes", "the CUDA context", CONTEXT_AGREES_BYTES),
        ("allocated_offset_bytes", "the offset in allocated memory", ALLOCATED_AGREES_BYTES),
        ("formula_offset_bytes", "the formula's offset", ALLOCATED_AGREES_BYTES),
    ):
        if (one := found[name]) and one.high - one.low > most:
            low, high = one.low / MIB, one.high / MIB
            notes.append(f"The lessons disagree on {what}: {low:,.0f} to {high:,.0f} MiB.")
    if (share := found["cache_share"]) and share.high - share.low > CACHE_AGREES:
        notes.append(
            f"The lessons disagree on the allocator's cache: reserved is {share.low:.2f} to "
            f"{share.high:.2f} times allocated. It depends on the step: probe this plan."
        )
    if (time := found["time_factor"]) and time.high > time.low * TIME_AGREES:
        notes.append(
            f"The lessons disagree on time: {time.low:.2f} to {time.high:.2f} times the model's."
        )
    return notes


def _origin(used: list[Lesson], own: list[Lesson]) -> list[str]:
    if own:
        return []
    sources = ", ".join(dict.fromkeys(one.imported_from for one in used))
    return [f"No probe of your own: these lessons were imported ({sources})."]


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


def by_device(lessons: Sequence[Lesson], today: date) -> list[Calibration]:
    """Return one calibration for each device and set of libraries that lessons speak of."""
    found: dict[str, Calibration] = {}
    for one in sorted(lessons, key=lambda one: (one.made_on, one.id), reverse=True):
        known = calibrate(lessons, one.device_name, one.software, today=today)
        if known:
            found.setdefault(f"{known.device_name} {sorted(known.stack.items())}", known)
    return list(found.values())
