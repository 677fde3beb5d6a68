"""What probes on a GPU taught: constant offsets of its memory, and how fast it really is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from statistics import median
from typing import Literal

from estimator.gpu_names import is_same_gpu
from estimator.lessons import Lesson, stack_of
from estimator.plan import FineTunePlan
from estimator.records import Record

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


def by_device(lessons: Sequence[Lesson], today: date) -> list[Calibration]:
    """Return one calibration for each device and set of libraries that lessons speak of."""
    found: dict[str, Calibration] = {}
    for one in sorted(lessons, key=lambda one: (one.made_on, one.id), reverse=True):
        known = calibrate(lessons, one.device_name, one.software, today=today)
        if known:
            found.setdefault(f"{known.device_name} {sorted(known.stack.items())}", known)
    return list(found.values())
