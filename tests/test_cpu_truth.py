"""The dry run meets the CPU allocator's own peak, whatever the method and the family."""

from __future__ import annotations

import pytest
from cpu_truth import CASES, Case, compare

TOLERANCE = 0.001

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's, of layers that it adapts by itself


@pytest.fixture(scope="module")
def peaks() -> dict[str, tuple[int, int]]:
    """Traced and true bytes by case; the libraries start once for all of them."""
    return {case.name: (traced, true) for case, traced, true in compare(CASES)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_meets_the_cpu_allocators_own_peak(
    case: Case, peaks: dict[str, tuple[int, int]]
) -> None:
    traced, true = peaks[case.name]
    assert traced == pytest.approx(true, rel=TOLERANCE)
