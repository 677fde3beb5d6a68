"""A step's fullest moments as sums over symbolic sizes: written once, evaluated for any sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
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
        sizes: Every size that occurs, and the dimension it is multiplied by (or none).
        counts: For each moment, how many there are of each size.
        moments: The same by component.
    """

    sizes: tuple[tuple[Size, str], ...]
    counts: tuple[tuple[int, ...], ...]
    moments: tuple[Amounts, ...]

    def fullest(self, dims: Dimensions, block: Callable[[float], int]) -> Parts:
        """Return what is alive at the fullest moment, in bytes by component.

        Args:
            dims: The size of each named dimension.
            block: Turns a storage's bytes into those that it takes on the device.
        """
        sizes = [_evaluate(size, repeats, dims, block) for size, repeats in self.sizes]
        totals = [sum(map(mul, counts, sizes)) for counts in self.counts]
        moment = self.moments[totals.index(max(totals))]
        by_size = dict(zip(self.sizes, sizes, strict=True))
        parts: Parts = {}
        for (component, size, repeats), count in moment.items():
            parts[component] = parts.get(component, 0) + count * by_size[size, repeats]
        return parts


def _evaluate(size: Size, repeats: str, dims: Dimensions, block: Callable[[float], int]) -> int:
    shape, itemsize = size
    num_bytes = block(itemsize * prod(map(dims.__getitem__, shape)))
    return num_bytes * int(dims[repeats]) if repeats else num_bytes


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
    sizes = sorted({(size, repeats) for moment in largest for _, size, repeats in moment})
    counts = []
    for moment in largest:
        by_size: Counter[tuple[Size, str]] = Counter()
        for (_, size, repeats), count in moment.items():
            by_size[size, repeats] += count
        counts.append(tuple(by_size[size] for size in sizes))
    return Forms(tuple(sizes), tuple(counts), tuple(largest))


def _largest(moments: Iterable[Amounts]) -> list[Amounts]:
    """Leave out every moment that cannot be the fullest, because another has all it has."""
    by_bytes = {}
    for moment in moments:
        clean = {key: count for key, count in moment.items() if count}
        by_bytes.setdefault(_bytes_per_element(clean), clean)
    front: list[dict[tuple[tuple[str, ...], str], int]] = []
    kept: list[Amounts] = []
    for items in sorted(by_bytes, key=lambda items: -sum(count for _, count in items)):
        amounts = dict(items)
        if any(all(other.get(k, 0) >= n for k, n in amounts.items()) for other in front):
            continue
        front.append(amounts)
        kept.append(by_bytes[items])
    return kept


def _bytes_per_element(
    moment: Amounts,
) -> frozenset[tuple[tuple[tuple[str, ...], str], int]]:
    sums: Counter[tuple[tuple[str, ...], str]] = Counter()
    for (_, (shape, itemsize), repeats), count in moment.items():
        sums[shape, repeats] += itemsize * count
    return frozenset(sums.items())
