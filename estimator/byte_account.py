"""Which bytes are alive, and the fullest moment there was."""

from __future__ import annotations

from dataclasses import dataclass

from estimator.estimate import Component

Sizes = dict[Component, int]


@dataclass(frozen=True, slots=True)
class Moment:
    """What is alive at one moment, in bytes by component."""

    sizes: Sizes

    @property
    def total_bytes(self) -> int:
        """All that is alive."""
        return sum(self.sizes.values())

    def plus(self, more: Sizes, times: int = 1) -> Moment:
        """Return this moment with ``times`` as much of ``more`` alive as well."""
        sums = dict(self.sizes)
        for component, size in more.items():
            sums[component] = sums.get(component, 0) + times * size
        return Moment(sums)


class Account:
    """Counts the bytes alive and remembers the fullest moment since it was last asked."""

    def __init__(self) -> None:
        self.live: Sizes = {}
        self._total = 0
        self._top = 0
        self._at_top: Sizes = {}

    def born(self, component: Component, size: int) -> None:
        """Count a storage that is born."""
        self.live[component] = self.live.get(component, 0) + size
        self._total += size

    def died(self, component: Component, size: int) -> None:
        """Count a storage that dies; only then can a fullest moment have passed."""
        if self._total > self._top:
            self._top, self._at_top = self._total, dict(self.live)
        self.live[component] -= size
        self._total -= size

    def relabel(self, old: Component, new: Component, size: int) -> None:
        """Count a storage as something else."""
        self.live[old] -= size
        self.live[new] = self.live.get(new, 0) + size

    def top(self) -> tuple[int, Sizes]:
        """Return the fullest moment so far, for :meth:`return_to`."""
        if self._total > self._top:
            self._top, self._at_top = self._total, dict(self.live)
        return self._top, self._at_top

    def return_to(self, top: tuple[int, Sizes]) -> None:
        """Forget what was fuller than ``top``: it did not happen."""
        self._top, self._at_top = top

    def cut(self) -> Moment:
        """Return the fullest moment since the last cut, and begin anew."""
        if self._total > self._top:
            self._at_top = dict(self.live)
        moment = Moment(self._at_top)
        self._top, self._at_top = self._total, dict(self.live)
        return moment


class Storage:
    """Bytes that are alive while something refers to this object."""

    __slots__ = ("account", "component", "size")

    def __init__(self, account: Account, size: int, component: Component = "temporaries") -> None:
        self.account = account
        self.size = size
        self.component: Component = component
        account.born(component, size)

    def __del__(self) -> None:
        self.account.died(self.component, self.size)
