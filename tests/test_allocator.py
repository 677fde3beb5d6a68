"""The caching allocator's rules, and what they make of a trace."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.allocator import DoesNotFit, replay, smallest_capacity
from estimator.trace import Trace

KIB = 2**10
MIB = 2**20


def traced(*sizes: int) -> Trace:
    trace = Trace()
    for size in sizes:
        trace.born(size)
    return trace


@pytest.mark.parametrize(
    ("size", "block", "segment"),
    [
        (1, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (9 * MIB, 9 * MIB, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (11 * MIB + 1, 12 * MIB, 12 * MIB),  # a rest of up to 1 MiB is not split off
    ],
)
def test_one_tensor_gets_the_block_and_the_segment_pytorch_gives_it(
    size: int, block: int, segment: int
) -> None:
    result = replay(traced(size))
    assert result.block_bytes == [block]
    assert result.peak_allocated_bytes == block
    assert result.peak_reserved_bytes == segment


def test_small_tensors_share_a_segment() -> None:
    assert replay(traced(*[512 * KIB] * 4)).peak_reserved_bytes == 2 * MIB
    assert replay(traced(*[512 * KIB] * 5)).peak_reserved_bytes == 4 * MIB


def test_freed_neighbours_merge_and_serve_a_larger_request() -> None:
    trace = Trace()
    first, second = trace.born(8 * MIB), trace.born(8 * MIB)
    trace.died(first)
    trace.died(second)
    trace.born(16 * MIB)
    assert replay(trace).peak_reserved_bytes == 20 * MIB


def fragmented() -> Trace:
    """Holes of 40 MiB between tensors that stay, then a request that no hole can meet."""
    trace = Trace()
    holes = []
    for _ in range(4):
        holes.append(trace.born(40 * MIB))
    trace.born(100 * MIB)
    for hole in holes:
        trace.died(hole)
    trace.born(80 * MIB)
    return trace


def test_the_cache_is_given_back_when_the_device_is_full() -> None:
    trace = fragmented()
    assert replay(trace).peak_reserved_bytes == 340 * MIB
    bounded = replay(trace, 260 * MIB)
    assert bounded.num_flushes == 1
    assert bounded.peak_reserved_bytes == 260 * MIB


def test_the_smallest_capacity_is_less_than_what_is_reserved_and_no_less_than_it_takes() -> None:
    trace = fragmented()
    smallest = smallest_capacity(trace, replay(trace))
    assert smallest == 260 * MIB
    replay(trace, smallest)
    with pytest.raises(DoesNotFit):
        replay(trace, smallest - 2 * MIB)


def test_emptying_the_cache_lowers_what_is_reserved() -> None:
    trace = Trace()
    trace.died(trace.born(100 * MIB))
    trace.flushed()
    trace.born(60 * MIB)
    assert replay(trace).peak_reserved_bytes == 100 * MIB
    trace.died(1)
    trace.born(200 * MIB)
    assert replay(trace).peak_reserved_bytes == 260 * MIB


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    trace = Trace()
    alive: list[int] = []
    for size in draw(st.lists(st.integers(0, 64 * MIB), min_size=1, max_size=40)):
        alive.append(trace.born(size))
        if draw(st.booleans()):
            trace.died(alive.pop(draw(st.integers(0, len(alive) - 1))))
    return trace


@given(traces())
def test_reserved_is_never_less_than_allocated_nor_allocated_than_asked(trace: Trace) -> None:
    result = replay(trace)
    assert trace.peak().size_bytes <= result.peak_allocated_bytes <= result.peak_reserved_bytes
    blocks = trace.with_sizes(result.block_bytes)
    assert blocks.peak().size_bytes == result.peak_allocated_bytes


@given(traces())
def test_a_trace_runs_in_its_smallest_capacity(trace: Trace) -> None:
    unlimited = replay(trace)
    smallest = smallest_capacity(trace, unlimited)
    assert unlimited.peak_allocated_bytes <= smallest <= unlimited.peak_reserved_bytes
    assert replay(trace, smallest).peak_reserved_bytes <= smallest


@pytest.mark.parametrize(("freed", "reserved"), [("beside first", 40), ("beside second", 58)])
def test_of_two_free_blocks_of_one_size_the_later_segments_is_taken(
    freed: str, reserved: int
) -> None:
    """The driver hands out addresses from high to low, and the lowest address is taken."""
    trace = Trace()
    born = {}
    for place in ("first", "second"):  # each pair fills a segment of 20 MiB
        born[place] = trace.born(6 * MIB)
        born[f"beside {place}"] = trace.born(14 * MIB)
    trace.died(born["first"])
    trace.died(born["second"])
    trace.born(6 * MIB)  # in the place of the second: the first one's stays free
    trace.died(born[freed])
    trace.born(18 * MIB)  # fits where the whole of a segment is free
    assert replay(trace).peak_reserved_bytes == reserved * MIB


def test_of_two_free_blocks_of_one_size_in_a_segment_the_lower_is_taken() -> None:
    trace = Trace()
    lower, _, upper, last = (trace.born(size * MIB) for size in (4, 4, 4, 8))
    trace.died(upper)
    trace.died(lower)
    trace.born(4 * MIB)  # in the lower one's place: the upper one's merges with the last
    trace.died(last)
    trace.born(12 * MIB)
    assert replay(trace).peak_reserved_bytes == 20 * MIB


def test_growing_segments_take_pages_for_what_is_missing() -> None:
    trace = Trace()
    first, second = trace.born(30 * MIB), trace.born(30 * MIB)
    trace.died(first)
    trace.born(45 * MIB)  # beyond the second: the first one's place is too small
    trace.died(second)
    trace.born(50 * MIB)  # in the place of both
    fixed, growing = replay(trace), replay(trace, expandable=True)
    assert fixed.peak_reserved_bytes == (30 + 30 + 46 + 50) * MIB
    assert growing.peak_reserved_bytes == 120 * MIB  # 105 MiB in pages of 20
    assert growing.peak_allocated_bytes == 95 * MIB
    assert smallest_capacity(trace, growing, expandable=True) == 120 * MIB
