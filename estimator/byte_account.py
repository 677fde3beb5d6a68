"""Which storages are alive, and the moments that may be the fullest, whatever the sizes.

Sizes stay symbolic here: a storage is so many bytes for each element of a shape whose dimensions
have names. What is alive at a moment is then a sum of such sizes, which :mod:`estimator.step_forms`
evaluates for any model and batch.
"""

from __future__ import annotations

from estimator.estimate import Component

Shape = tuple[str, ...]
"""Names of dimensions, such as ``("tokens", "hidden")``; :func:`estimator.structure.dimensions`."""

Size = tuple[Shape, int]
"""A storage's size: a shape, and bytes for each element of it."""

Amounts = dict[tuple[Component, Size, str], int]
"""How many storages there are of each size, by what they are for.

The last part of the key names a dimension that the whole is multiplied by, such as the number of
further equal layers; it is empty where there is none.
"""


def plus(left: Amounts, right: Amounts) -> Amounts:
    """Return both together."""
    sums = dict(left)
    for key, count in right.items():
        sums[key] = sums.get(key, 0) + count
    return sums


def times(amounts: Amounts, dimension: str) -> Amounts:
    """Return amounts that are there once for each of a dimension."""
    return {(component, size, dimension): n for (component, size, _), n in amounts.items() if n}


def difference(now: Amounts, before: Amounts) -> Amounts:
    """Return what there is now more than before."""
    changes = {key: now.get(key, 0) - before.get(key, 0) for key in {**now, **before}}
    return {key: count for key, count in changes.items() if count}


class Account:
    """Counts what is alive and remembers every moment after which something died."""

    def __init__(self) -> None:
        self.live: Amounts = {}
        self._moments: list[Amounts] = []
        self._grew = False

    def born(self, component: Component, size: Size) -> None:
        """Count a storage that is born."""
        key = (component, size, "")
        self.live[key] = self.live.get(key, 0) + 1
        self._grew = True

    def died(self, component: Component, size: Size) -> None:
        """Count a storage that dies; only then can a fullest moment have passed."""
        self.remember()
        self.live[component, size, ""] -= 1

    def relabel(self, old: Component, new: Component, size: Size) -> None:
        """Count a storage as something else."""
        self.live[old, size, ""] -= 1
        key = (new, size, "")
        self.live[key] = self.live.get(key, 0) + 1

    def remember(self) -> int:
        """Note this moment if more is alive than at the last; return how many are noted."""
        if self._grew:
            self._moments.append(dict(self.live))
            self._grew = False
        return len(self._moments)

    def forget_since(self, num_moments: int) -> None:
        """Forget the later moments: they did not happen."""
        del self._moments[num_moments:]
        self._grew = False

    def cut(self) -> list[Amounts]:
        """Return the moments since the last cut, and begin anew."""
        self.remember()
        moments, self._moments = self._moments, []
        self._grew = True
        return moments


class Storage:
    """Bytes that are alive while something refers to this object."""

    __slots__ = ("account", "component", "size")

    def __init__(self, account: Account, size: Size, component: Component = "temporaries") -> None:
        self.account = account
        self.size = size
        self.component: Component = component
        account.born(component, size)

    def __del__(self) -> None:
        self.account.died(self.component, self.size)
