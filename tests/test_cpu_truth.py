"""The dry run meets the CPU allocator's own peak, whatever the method and the family."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cpu_truth import CASES, Case, compare

TOLERANCE = 0.001

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # peft's, of layers that it adapts by itself
    pytest.mark.xdist_group("cpu_truth"),
]

PeaksOf = Callable[[Case], tuple[int, int]]


@pytest.fixture(scope="module")
def peaks_of() -> Iterator[PeaksOf]:
    """Tells traced and true bytes of a case; the libraries start once for all of them."""
    found: dict[str, tuple[int, int]] = {}
    ahead = compare(CASES)

    def peaks(case: Case) -> tuple[int, int]:
        while case.name not in found:
            one, traced, true = next(ahead)
            found[one.name] = traced, true
        return found[case.name]

    yield peaks
    ahead.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_meets_the_cpu_allocators_own_peak(case: Case, peaks_of: PeaksOf) -> None:
    traced, true = peaks_of(case)
    assert traced == pytest.approx(true, rel=TOLERANCE)
