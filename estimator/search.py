"""The largest whole number with which something still fits, in as few readings as can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

SCARCE = 10
"""With fewer readings than this none is spent on halving the bracket."""

MISSES_TO_START = 10
"""A dear reading that does not fit makes the next one a tenth more careful: what an allocator
reserves jumps by some percent from one size to the next, and few readings are left."""


@dataclass(frozen=True, slots=True)
class Largest:
    """What a search found.

    Attributes:
        value: The largest number seen to fit; None where not even 1 was.
        too_large: The smallest number seen not to fit; None where none was.
        is_exact: Whether there is none between the two that was not read.
    """

    value: int | None
    too_large: int | None
    is_exact: bool


def largest_that_fits(
    need_bytes: Callable[[int], int | None],
    capacity_bytes: int,
    *,
    most: int,
    first: int = 1,
    expected_bytes: Callable[[int], float | None] | None = None,
    max_readings: int = 100,
) -> Largest:
    """Return the largest number from 1 to ``most`` whose need is within a capacity.

    Memory grows with batch in a straight line, with length in one that may bend (attention that
    keeps its scores grows with the square): the next number to read is where the curve through
    the last readings meets the capacity. Where that takes long, as at a corner of the need, every
    second one halves the bracket. The need must not fall as the number grows.

    Args:
        need_bytes: The need of a number; None where it cannot be read, which counts as too much.
        capacity_bytes: What there is.
        most: The largest number to try.
        first: Where to begin.
        expected_bytes: A cheap guess of the need, where reading is dear. It is scaled to what
            was read.
        max_readings: How often to read at most.
    """
    known: dict[int, int] = {}
    low, high, high_is_read = 0, most + 1, True
    misses = 0
    halves = max_readings > SCARCE and expected_bytes is None
    for turn in range(max_readings):
        if high - low <= 1:
            break
        if expected_bytes and known:
            at = _expected(expected_bytes, known, capacity_bytes, most) or low + 1
            at -= (at - low) * misses // MISSES_TO_START
        else:
            at = _crossing(known, capacity_bytes, first)
        if halves and turn > SCARCE / 2 and turn % 2 and low > 0 and high <= most:
            at = (low + high) // 2
        at = min(max(at, low + 1), high - 1)
        need = need_bytes(at)
        if need is not None:
            known[at] = need
        if need is not None and need <= capacity_bytes:
            low, misses = at, 0
        else:
            high, high_is_read = at, need is not None
            misses = min(misses + (turn > 0), MISSES_TO_START)
    too_large = high if high <= most and high_is_read else None
    return Largest(low or None, too_large, high - low <= 1 and high_is_read)


def _expected(
    expected_bytes: Callable[[int], float | None],
    known: dict[int, int],
    capacity_bytes: int,
    most: int,
) -> int | None:
    """Return where the cheap guess, scaled to the last reading, meets the capacity."""
    at, need = list(known.items())[-1]
    expected = expected_bytes(at)
    scale = need / expected if expected else 1.0

    def scaled(number: int) -> int | None:
        expected = expected_bytes(number)
        return None if expected is None else round(scale * expected)

    return largest_that_fits(scaled, capacity_bytes, most=most).value


def _crossing(known: dict[int, int], capacity_bytes: int, first: int) -> int:
    """Return where the curve through the readings about the capacity meets it."""
    if not known:
        return first
    fitting = sorted(at for at, need in known.items() if need <= capacity_bytes)
    others = sorted(at for at, need in known.items() if need > capacity_bytes)
    if len(known) == 1:
        return 2 * fitting[0] if fitting else others[0] // 2
    pair = fitting[-1:] + others[:1]
    if len(pair) < 2:
        pair = (fitting or others)[-2:]
    left, right = pair
    slope = (known[right] - known[left]) / (right - left)
    if slope <= 0:  # another part of the step still decides the peak
        return 4 * right
    missing = capacity_bytes - known[left]
    bend = _bend(known, left, right, slope)
    if bend <= 0 or missing <= 0:
        return left + int(missing / slope)
    # missing = slope x + bend x (x - (right - left)), with x counted from the left
    rise = slope - bend * (right - left)
    return left + int(2 * missing / (rise + sqrt(rise * rise + 4 * bend * missing)))


def _bend(known: dict[int, int], left: int, right: int, slope: float) -> float:
    """Return the second divided difference of the readings, 0 where there are only two."""
    rest = [at for at in known if at not in (left, right)]
    if not rest:
        return 0
    nearest = min(rest, key=lambda at: abs(at - left))
    return ((known[nearest] - known[right]) / (nearest - right) - slope) / (nearest - left)
