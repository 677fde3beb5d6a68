"""How far a plan's batch and length can grow on its GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from estimator.changes import LENGTH_STEP
from estimator.estimate import Basis, Fits, MemoryEstimate
from estimator.plan import FineTunePlan
from estimator.reader import Reader
from estimator.records import Record
from estimator.search import largest_that_fits

Size = Literal["micro_batch_size", "seq_len"]

_STEPS_AND_LIMITS: dict[Size, tuple[int, int]] = {
    "micro_batch_size": (1, 1_000_000),
    "seq_len": (LENGTH_STEP, 100_000_000),
}
"""In what steps a size is searched, and the largest that a plan can have."""

_FORMULA_READINGS = 100
_DRY_RUNS = 4
"""How many readings one search may take, beside the plan's own; the formula's always suffice."""


class Limit(Record):
    """How far one size of a plan can grow on a GPU, everything else as it is.

    ``value`` fits with room to spare (``fits`` is yes) or, where nothing does, only just (tight);
    None where nothing fits. ``too_large`` is the smallest that was read and does not; ``is_exact``
    says that none lies between the two. ``fits`` and ``basis`` are None where nothing was read.
    """

    value: int | None
    too_large: int | None
    fits: Fits | None
    basis: Basis | None
    is_exact: bool


NOT_READ = Limit(value=None, too_large=None, fits=None, basis=None, is_exact=False)


def find_limit(
    plan: FineTunePlan, size: Size, reader: Reader, *, by_dry_run: bool = False
) -> Limit:
    """Return the largest micro-batch or the longest sequence of a plan on its GPU.

    Args:
        plan: Its other keys stay as they are; a length is searched in multiples of 64.
        size: Which of the two.
        reader: Reads the plan's variants.
        by_dry_run: Let a few dry runs decide, guided by the formula where it holds. Otherwise
            the formula decides, and where it does not hold nothing is known.
    """
    step, most = _STEPS_AND_LIMITS[size]
    formula = reader.formula(plan)
    if formula is None and not by_dry_run:
        return NOT_READ
    if by_dry_run:
        reader = reader.allowing(_DRY_RUNS)

    def needs(
        read: Callable[[FineTunePlan], MemoryEstimate | None], number: int, fits: Fits
    ) -> int | None:
        estimate = read(plan.changed(**{size: number * step}))
        if estimate is None:
            return None
        return estimate.comfortable_need_bytes if fits == "yes" else estimate.smallest_need_bytes

    basis: Basis = "dry-run" if by_dry_run else "formula"
    levels: tuple[Fits, ...] = ("yes", "tight")
    for fits in levels:
        found = largest_that_fits(
            lambda number, fits=fits: needs(
                reader.dry_run if by_dry_run else reader.formula, number, fits
            ),
            plan.gpu_spec.memory_bytes,
            most=most // step,
            first=max(1, getattr(plan, size) // step),
            expected_bytes=(lambda number, fits=fits: needs(reader.formula, number, fits))
            if by_dry_run and formula
            else None,
            max_readings=1 + _DRY_RUNS if by_dry_run else _FORMULA_READINGS,
        )
        if found.value is not None:
            return Limit(
                value=found.value * step,
                too_large=found.too_large * step if found.too_large else None,
                fits=fits,
                basis=basis,
                is_exact=found.is_exact,
            )
        if not found.is_exact:  # not even 1 was reached
            return NOT_READ
    return Limit(value=None, too_large=step, fits="no", basis=basis, is_exact=True)
