"""A step's fullest moments as sums over symbolic sizes: written once, evaluated for any sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from math import prod
from operator import mul

from estimator.byte_account import Amounts, Size
from estimator.decoder_step import DecoderStep
from estimator.estimate import Component
from estimator.structure import Dimensions, Structure

Parts = dict[Component, int]
"""Bytes by component."""


@dataclass(frozen=True, slots=True)
class Forms:
    """The moments of one phase, of which the largest sum is the phase's peak.

    Attributes:
        moments: How many there are of each size, by component.
        sizes: The sizes of which one moment has more than another.
        own: For each moment, the places in ``sizes`` of those, and how many more it has.
    """

    moments: tuple[Amounts, ...]
    sizes: tuple[tuple[Size, str], ...]
    own: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    def fullest(self, bytes_of: Bytes) -> Parts:
        """Return what is alive at the fullest moment, in bytes by component."""
        look_up = [bytes_of[size] for size in self.sizes].__getitem__
        totals = [sum(map(mul, counts, map(look_up, places))) for places, counts in self.own]
        moment = self.moments[totals.index(max(totals))]
        parts: Parts = {}
        for (component, size, repeats), count in moment.items():
            parts[component] = parts.get(component, 0) + count * bytes_of[size, repeats]
        return parts


class Bytes(dict[tuple[Size, str], int]):
    """The bytes of every size, each worked out when it is first asked for.

    Args:
        dims: The size of each named dimension.
        block: Turns a storage's bytes into those that it takes on the device.
    """

    def __init__(self, dims: Dimensions, block: Callable[[float], int]) -> None:
        super().__init__()
        self._dims = dims
        self._block = block

    def __missing__(self, key: tuple[Size, str]) -> int:
        (shape, itemsize), repeats = key
        dims = self._dims
        size = self._block(itemsize * prod(map(dims.__getitem__, shape)))
        self[key] = size = size * int(dims[repeats]) if repeats else size
        return size


@dataclass(frozen=True, slots=True)
class StepForms:
    """The forms of the two phases that depend on the batch."""

    forward: Forms
    backward: Forms


@lru_cache(maxsize=4096)
def step_forms(structure: Structure) -> StepForms:
    """Return the fullest moments of every step of a structure."""
    step = DecoderStep(structure).moments()
    return StepForms(_forms(step.forward), _forms(step.backward))


def _forms(moments: Iterable[Amounts]) -> Forms:
    largest = _largest(moments)
    by_size: list[Counter[tuple[Size, str]]] = []
    for moment in largest:
        counts: Counter[tuple[Size, str]] = Counter()
        for (_, size, repeats), count in moment.items():
            counts[size, repeats] += count
        by_size.append(counts)
    sizes = sorted({size for counts in by_size for size in counts})
    least = {size: min(counts[size] for counts in by_size) for size in sizes}
    telling = [size for size in sizes if any(counts[size] > least[size] for counts in by_size)]
    own = []
    for counts in by_size:
        more = [(place, counts[size] - least[size]) for place, size in enumerate(telling)]
        more = [(place, count) for place, count in more if count]
        own.append((tuple(place for place, _ in more), tuple(count for _, count in more)))
    return Forms(tuple(largest), tuple(telling), tuple(own))


def _largest(moments: Iterable[Amounts]) -> list[Amounts]:
    """Leave out every moment that cannot be the fullest, because another has all it has."""
    by_bytes = {}
    for moment in moments:
        by_bytes.setdefault(_bytes_per_element(moment), moment)
    front: list[dict[tuple[tuple[str, ...], str], int]] = []
    kept: list[Amounts] = []
    for items in sorted(by_bytes, key=lambda items: -sum(count for _, count in items)):
        amounts = dict(items)
        if any(all(other.get(k, 0) >= n for k, n in amounts.items()) for other in front):
            continue
        front.append(amounts)
        kept.append(_in_one_order(by_bytes[items]))
    return kept


def _in_one_order(moment: Amounts) -> Amounts:
    """Return a moment in which a shape and its transpose are one size."""
    sums: Amounts = {}
    for (component, (shape, itemsize), repeats), count in moment.items():
        if count:
            key = component, (_in_order(shape), itemsize), repeats
            sums[key] = sums.get(key, 0) + count
    return sums


def _bytes_per_element(
    moment: Amounts,
) -> frozenset[tuple[tuple[tuple[str, ...], str], int]]:
    sums: dict[tuple[tuple[str, ...], str], int] = {}
    for (_, (shape, itemsize), repeats), count in moment.items():
        if count:
            key = _in_order(shape), repeats
            sums[key] = sums.get(key, 0) + itemsize * count
    return frozenset(sums.items())


@cache
def _in_order(shape: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(shape))
