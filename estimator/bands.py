"""Between which limits an estimate's sizes may turn out, and what moves them there."""

from __future__ import annotations

from estimator.estimate import FRAGMENTATION_ASSUMED, Band, Level, MemoryEstimate
from estimator.gpu_facts import context_bytes
from estimator.plan import FineTunePlan

ALLOCATED_SPREAD = 0.01
"""How far a dry run's allocated peak may be off: no published step on today's libraries was, by
half."""

FORMULA_SPREAD = ALLOCATED_SPREAD + 0.01
"""The formula is within 1 % of the dry run (:func:`~estimator.memory.read_formula`)."""

FORMULA_SPREAD_SMALL = ALLOCATED_SPREAD + 0.02
"""For models under a few hundred MiB: the rests of small blocks, which it does not count, weigh
more there."""

SMALL_BYTES = 512 * 2**20

RESERVED_MOST = 1.41
"""The largest reserved / allocated of the 24 published steps that tell both
(``bench/published/runs.jsonl``: 1.05 to 1.41; the highest with eager attention)."""

SEGMENT_BYTES = 20 * 2**20
"""The allocator's usual segment: with tiny models one that is nearly empty weighs."""

SHORTER = "Lower: examples shorter than seq_len."
OTHER_VERSIONS = "Either way: other versions of the libraries."
WITH_PADDING = "Higher: batches with padding, for which a mask is built."


def around(size_bytes: int, spread: float) -> Band:
    """Return the band that reaches a share of the size to both sides."""
    low, high = round(size_bytes * (1 - spread)), round(size_bytes * (1 + spread))
    return Band(low_bytes=low, likely_bytes=size_bytes, high_bytes=high)


def shifted(band: Band, more_bytes: int) -> Band:
    """Return the band of a size to which something known is added."""
    return Band(
        low_bytes=band.low_bytes + more_bytes,
        likely_bytes=band.likely_bytes + more_bytes,
        high_bytes=band.high_bytes + more_bytes,
    )


def formula_bands(estimate: MemoryEstimate) -> dict[Level, Band]:
    """Return the bands of a formula reading; on a CPU there is only what is allocated.

    Reserved is no less than allocated, likely as much more as is assumed wherever no allocator
    was replayed, and at most as much more as with any published step. The total is left out where
    no CUDA context was measured on the plan's GPU.
    """
    peak = estimate.peak_allocated_bytes
    allocated = around(peak, FORMULA_SPREAD if peak >= SMALL_BYTES else FORMULA_SPREAD_SMALL)
    bands: dict[Level, Band] = {"allocated": allocated}
    if estimate.device == "cpu":
        return bands
    bands["reserved"] = Band(
        low_bytes=allocated.low_bytes,
        likely_bytes=round(peak * FRAGMENTATION_ASSUMED),
        high_bytes=round(allocated.high_bytes * RESERVED_MOST) + SEGMENT_BYTES,
    )
    context = context_bytes(estimate.plan.gpu_spec)
    if context is not None:
        bands["total"] = shifted(bands["reserved"], context)
    return bands


def formula_moved_by(plan: FineTunePlan, *, on_cuda: bool) -> tuple[str, ...]:
    """Return what moves a formula reading within its bands, as sentences."""
    reasons = [SHORTER, OTHER_VERSIONS]
    if on_cuda:
        reasons.append(
            f"Reserved: assumed to be {FRAGMENTATION_ASSUMED:g} times allocated, at most "
            f"{RESERVED_MOST:g} times as with published steps; a dry run replays the allocator, "
            "which narrows it."
        )
    if not plan.keep_outputs:
        reasons.append("Higher: a loop that holds the outputs of one step into the next.")
    if not plan.padded:
        reasons.append(WITH_PADDING)
    return tuple(reasons)


def measured_bands(estimate: MemoryEstimate) -> dict[Level, Band]:
    """Return a band of no width for each size that was measured."""
    sizes: dict[Level, int | None] = {
        "allocated": estimate.peak_allocated_bytes,
        "reserved": estimate.peak_reserved_bytes,
        "total": estimate.total_bytes,
    }
    return {level: around(size, 0) for level, size in sizes.items() if size is not None}


MEASURED_MOVED_BY = (
    "Nothing within this run, for it was measured. Other data, another GPU and other versions of "
    "the libraries want a run of their own.",
)
