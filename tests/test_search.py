from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.search import largest_that_fits

MOST = 1_000_000
NEEDS = st.tuples(
    st.integers(0, 10**9), st.integers(1, 10**7), st.integers(0, 10**4), st.integers(0, 3 * 10**9)
)


@settings(deadline=None, max_examples=150)
@given(NEEDS, st.integers(0, 3 * 10**10), st.sampled_from([1, 4, 32]))
def test_the_answer_fits_and_the_next_does_not(
    need: tuple[int, int, int, int], capacity: int, first: int
) -> None:
    constant, slope, bend, floor = need
    read: list[int] = []

    def need_bytes(number: int) -> int:
        read.append(number)
        return max(floor, constant + slope * number + bend * number**2)

    found = largest_that_fits(need_bytes, capacity, most=MOST, first=first)
    assert found.is_exact
    assert len(read) <= 46
    if found.value is not None:
        assert need_bytes(found.value) <= capacity
    if (found.value or 0) < MOST:
        assert need_bytes((found.value or 0) + 1) > capacity


def test_what_cannot_be_read_bounds_the_answer_and_is_not_called_exact() -> None:
    found = largest_that_fits(lambda number: number if number <= 20 else None, 1000, most=MOST)
    assert (found.value, found.too_large, found.is_exact) == (20, None, False)


def test_few_dear_readings_guided_by_a_cheap_guess_end_at_the_answer() -> None:
    """The guess is a tenth too low throughout: the second reading is right."""
    read: list[int] = []

    def dear(number: int) -> int:
        read.append(number)
        return 110 * number

    found = largest_that_fits(
        dear, 100_000, most=MOST, first=7, expected_bytes=lambda number: 100 * number
    )
    assert found.value == 909
    assert found.is_exact
    assert len(read) <= 4


def test_a_search_that_runs_out_of_readings_says_so() -> None:
    found = largest_that_fits(lambda number: number**2, 10**8, most=MOST, max_readings=3)
    assert found.value is not None
    assert found.value**2 <= 10**8
    assert not found.is_exact
