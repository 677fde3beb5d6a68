"""Replay of an allocation trace through a model of PyTorch's CUDA caching allocator.

The rules are those of ``c10/cuda/CUDACachingAllocator.cpp`` (torch 2.13, one stream, default
settings): sizes are rounded up to 512 bytes; blocks of at most 1 MiB come from 2 MiB segments,
those under 10 MiB from 20 MiB segments, larger ones from segments of their own, rounded up to
2 MiB; best fit; a block is split where the rest is worth keeping; neighbours merge when freed;
where the device is full, the cache is given back and the request is tried once more.

Of free blocks of one size the allocator takes the one with the lowest address, so it matters where
segments lie: the driver hands out addresses from high to low, as Linux maps memory. (On published
T4 steps with eager attention this decides whether one more score matrix is reserved; with it the
replay meets them.)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import ClassVar

from estimator.trace import FLUSH, Trace

_MIB = 2**20
_ROUNDING = 512
_SMALL = _MIB
_SMALL_SEGMENT = 2 * _MIB
_LARGE_SEGMENT = 20 * _MIB
_LARGE_ALONE = 10 * _MIB
_SEGMENT_ROUNDING = 2 * _MIB
_SMALLEST_SHARE = 1 / 128
_TOP_ADDRESS = 2**56  # any address above every segment


class DoesNotFit(Exception):
    """The trace asks for more than the capacity, even with the cache given back."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What the allocator held while a trace ran.

    ``block_bytes`` is the size of the block that each storage was given, by its number: what
    ``torch.cuda.max_memory_allocated`` counts. It is up to 1 MiB more than was asked for,
    because a small rest of a large block is not split off.
    """

    block_bytes: list[int]
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    num_flushes: int


def replay(trace: Trace, capacity_bytes: int | None = None, *, expandable: bool = False) -> Replay:
    """Run a trace through the allocator.

    Args:
        trace: Births and deaths, in order.
        capacity_bytes: What the allocator may reserve; None for no limit.
        expandable: Whether segments grow (``expandable_segments:True``).

    Raises:
        DoesNotFit: A request cannot be met within ``capacity_bytes``.
    """
    allocator = (_GrowingAllocator if expandable else _Allocator)(capacity_bytes)
    sizes = trace.sizes
    block_bytes = [0] * len(sizes)
    for event in trace.events:
        if event >= 0:
            block_bytes[event] = allocator.allocate(event, sizes[event])
        elif event == FLUSH:
            allocator.flush()
        else:
            allocator.free(~event)
    return Replay(
        block_bytes, allocator.peak_allocated, allocator.peak_reserved, allocator.num_flushes
    )


def smallest_capacity(trace: Trace, unlimited: Replay, *, expandable: bool = False) -> int:
    """Return the fewest bytes with which the allocator can still run the trace.

    Reserved memory overstates a need, because the cache is given back under pressure. This is
    found by bisection between the allocated and the reserved peak, to 2 MiB or, where that is
    more, to :data:`_SMALLEST_SHARE` of what is reserved, and rounded up to what was seen to do.

    Args:
        trace: Births and deaths, in order.
        unlimited: The trace's replay without a limit.
        expandable: Whether segments grow. Then there is little to give back, and what is reserved
            is the answer, at most a page for each hole too much.
    """
    if expandable:
        return unlimited.peak_reserved_bytes
    low = unlimited.peak_allocated_bytes // _SEGMENT_ROUNDING - 1  # does not fit
    high = -(-unlimited.peak_reserved_bytes // _SEGMENT_ROUNDING)  # fits
    near = max(1, round(high * _SMALLEST_SHARE))
    while high - low > near:
        middle = (low + high) // 2
        try:
            replay(trace, middle * _SEGMENT_ROUNDING)
            high = middle
        except DoesNotFit:
            low = middle
    return high * _SEGMENT_ROUNDING


class _Block:
    __slots__ = ("address", "following", "is_free", "previous", "size", "small")

    def __init__(self, address: int, size: int, small: bool) -> None:
        self.address = address
        self.size = size
        self.small = small
        self.is_free = False
        self.previous: _Block | None = None
        self.following: _Block | None = None


class _Allocator:
    """Pools of free blocks, ordered by size and then address, as the C++ sets are.

    A pool holds (size, address) pairs, which compare faster than blocks; ``free_blocks`` knows the
    block at an address, ``smallest_rest`` what is worth splitting off in a pool.
    """

    smallest_rest: ClassVar = {True: _ROUNDING, False: _SMALL + 1}

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.pools: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self.free_blocks: dict[int, _Block] = {}
        self.blocks: dict[int, _Block] = {}
        self.reserved = self.peak_reserved = 0
        self.allocated = self.peak_allocated = 0
        self.num_flushes = 0
        self.lowest_address = _TOP_ADDRESS

    def allocate(self, number: int, size: int) -> int:
        if size == 0:
            return 0
        size = -(-size // _ROUNDING) * _ROUNDING
        small = size <= _SMALL
        block = self._best_fit(small, size) or self._new_segment(small, size)
        self._split(block, size)
        self.blocks[number] = block
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block.size

    def free(self, number: int) -> None:
        block = self.blocks.pop(number, None)
        if block is None:
            return
        self.allocated -= block.size
        for neighbour in (block.previous, block.following):
            if neighbour is not None and neighbour.is_free:
                self._take(neighbour)
                block = self._merge(block, neighbour)
        self._put(block)

    def flush(self) -> None:
        """Give back every segment that is wholly free."""
        for pool in self.pools.values():
            blocks = [self.free_blocks[address] for _, address in pool]
            for block in blocks:
                if block.previous is None and block.following is None:
                    self._take(block)
                    self.reserved -= block.size

    def _best_fit(self, small: bool, size: int) -> _Block | None:
        pool = self.pools[small]
        index = bisect_left(pool, (size,))
        if index == len(pool):
            return None
        block = self.free_blocks.pop(pool.pop(index)[1])
        block.is_free = False
        return block

    def _new_segment(self, small: bool, size: int) -> _Block:
        if small:
            segment = _SMALL_SEGMENT
        elif size < _LARGE_ALONE:
            segment = _LARGE_SEGMENT
        else:
            segment = -(-size // _SEGMENT_ROUNDING) * _SEGMENT_ROUNDING
        if self.capacity is not None and self.reserved + segment > self.capacity:
            self.flush()
            self.num_flushes += 1
            if self.reserved + segment > self.capacity:
                raise DoesNotFit
        self.reserved += segment
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        self.lowest_address -= segment + _SEGMENT_ROUNDING  # a gap: segments never merge
        return _Block(self.lowest_address, segment, small)

    def _split(self, block: _Block, size: int) -> None:
        rest = block.size - size
        if rest < self.smallest_rest[block.small]:
            return
        tail = _Block(block.address + size, rest, block.small)
        tail.previous, tail.following = block, block.following
        if block.following is not None:
            block.following.previous = tail
        block.following, block.size = tail, size
        self._put(tail)

    def _merge(self, block: _Block, neighbour: _Block) -> _Block:
        first, second = block, neighbour
        if neighbour.address < block.address:
            first, second = neighbour, block
        first.size += second.size
        first.following = second.following
        if second.following is not None:
            second.following.previous = first
        return first

    def _put(self, block: _Block) -> None:
        block.is_free = True
        self.free_blocks[block.address] = block
        insort(self.pools[block.small], (block.size, block.address))

    def _take(self, block: _Block) -> None:
        pool = self.pools[block.small]
        del pool[bisect_left(pool, (block.size, block.address))]
        del self.free_blocks[block.address]
        block.is_free = False


class _GrowingAllocator(_Allocator):
    """With ``expandable_segments:True``: each pool is one segment, which grows page by page.

    A page is 2 MiB for small blocks and 20 MiB for large ones; any rest is split off; the last
    free block is taken only where no other is large enough, because it can grow
    (``get_free_block`` and ``try_allocate_expandable_block``). Nothing is given back: what lies
    free in whole pages would be, under pressure.
    """

    smallest_rest: ClassVar = {True: _ROUNDING, False: _ROUNDING}

    def __init__(self, capacity: int | None) -> None:
        super().__init__(capacity)
        self.last: dict[bool, _Block | None] = {True: None, False: None}
        self.ends = {True: 0, False: _TOP_ADDRESS}

    def flush(self) -> None:
        """Keep what is mapped."""

    def _best_fit(self, small: bool, size: int) -> _Block | None:
        last, pool = self.last[small], self.pools[small]
        if last is not None and last.is_free and len(pool) > 1:
            self._take(last)
            found = super()._best_fit(small, size)
            self._put(last)
            if found:
                return found
        return super()._best_fit(small, size)

    def _new_segment(self, small: bool, size: int) -> _Block:
        page = _SMALL_SEGMENT if small else _LARGE_SEGMENT
        last = self.last[small]
        if last is not None and last.is_free:
            self._take(last)
            block = last
        else:
            block = _Block(self.ends[small], 0, small)
            block.previous = last
            if last is not None:
                last.following = block
            self.last[small] = block
        mapped = -(-(size - block.size) // page) * page
        if self.capacity is not None and self.reserved + mapped > self.capacity:
            raise DoesNotFit
        block.size += mapped
        self.ends[small] += mapped
        self.reserved += mapped
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return block

    def _split(self, block: _Block, size: int) -> None:
        super()._split(block, size)
        if block.following is not None and self.last[block.small] is block:
            self.last[block.small] = block.following

    def _merge(self, block: _Block, neighbour: _Block) -> _Block:
        merged = super()._merge(block, neighbour)
        if merged.following is None:
            self.last[merged.small] = merged
        return merged
