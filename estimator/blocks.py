"""How many bytes CUDA's caching allocator takes for a storage, as far as its size alone tells.

Source: ``c10/cuda/CUDACachingAllocator.cpp``, torch 2.13, whose rules
:mod:`estimator.allocator` replays. What depends on the blocks that happen to be free is left out.
"""

from __future__ import annotations

_ROUNDING = 512
_ALONE = 10 * 2**20
_SEGMENT_ROUNDING = 2 * 2**20
_KEPT_REST = 2**20


def rounded(size_bytes: float) -> int:
    """Return a size rounded up to 512 bytes, as every block's is."""
    return int(-(-size_bytes // _ROUNDING)) * _ROUNDING


def block(size_bytes: float) -> int:
    """Return the size of the block that a storage is given when nothing fitting is free.

    From 10 MiB on a storage gets a segment of its own, in multiples of 2 MiB; a rest of up to
    1 MiB is not split off it. Smaller storages are cut from shared segments without a rest,
    except for some at a segment's end, which is not counted here.
    """
    size = rounded(size_bytes)
    rest = -size % _SEGMENT_ROUNDING
    return size + rest if size >= _ALONE and rest <= _KEPT_REST else size


def exact(size_bytes: float) -> int:
    """Return the size itself in whole bytes: what a device without such blocks takes."""
    return int(-(-size_bytes // 1))
