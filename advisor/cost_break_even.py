"""From how many requests a month one strategy costs less than another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import combinations
from typing import TYPE_CHECKING

from advisor.cost_draws import usd
from advisor.cost_report import BreakEven, Crossing, VolumeCurves
from advisor.strategies import CostedStrategy
from estimator.cost_ledger import total

if TYPE_CHECKING:
    from numpy import ndarray

MOST_REQUESTS = 10**10
_PER_DECADE = 40
_WITHIN = 2001
_SHOWN_PER_DECADE = 5  # a part of those reckoned


def volumes() -> ndarray:
    """Return requests a month from 1 to ten billion, evenly over the logarithm, as whole ones."""
    return _whole_numbers(_PER_DECADE)


def _whole_numbers(per_decade: int) -> ndarray:
    import numpy as np

    decades = len(str(MOST_REQUESTS)) - 1
    return np.unique(np.round(np.logspace(0, decades, decades * per_decade + 1)))


def compare_volumes(
    strategies: Sequence[CostedStrategy], mids: Mapping[str, Decimal], horizon_months: int
) -> tuple[tuple[BreakEven, ...], VolumeCurves | None]:
    """Return where each two strategies cost the same, and what months cost by volume.

    A crossing is found on a fine grid and
    then by a straight line between two points of a finer one: exact where both costs are straight,
    and else within 0.003 %, the step of a further GPU.

    Args:
        strategies: Those whose costs are known.
        mids: The middle value of every input.
        horizon_months: Over how many months what is paid once is spread.
    """
    requests = volumes()
    values = {name: float(value) for name, value in mids.items()}
    known = {one.id: (one, *_costs(one, values, requests, horizon_months)) for one in strategies}
    if not known:
        return (), None
    found = []
    for first, second in combinations(known, 2):
        one, *costs = known[first]
        other, *others = known[second]
        crossings = [
            _crossings(one, other, index, requests, mine - theirs, values, horizon_months)
            for index, (mine, theirs) in enumerate(zip(costs, others, strict=True))
        ]
        if any(crossings):
            at_first = first if (costs[1] - others[1])[0] <= 0 else second
            found.append(
                BreakEven(
                    one=first,
                    other=second,
                    cheaper_at_first=at_first,
                    running=tuple(crossings[0]),
                    in_all=tuple(crossings[1]),
                )
            )
    shown = _whole_numbers(_SHOWN_PER_DECADE)
    at = requests.searchsorted(shown)  # each is among them
    curves = VolumeCurves(
        requests_per_month=tuple(int(value) for value in shown),
        running_usd={id_: _usd(entry[1][at]) for id_, entry in known.items()},
        in_all_usd={id_: _usd(entry[2][at]) for id_, entry in known.items()},
    )
    return tuple(found), curves


def _usd(amounts: ndarray) -> tuple[Decimal, ...]:
    return tuple(usd(amount) for amount in amounts)


def _costs(
    strategy: CostedStrategy,
    values: Mapping[str, float],
    requests: ndarray,
    horizon_months: int,
) -> tuple[ndarray, ndarray]:
    """Return a month's cost at each volume, without and with a share of what is paid once."""
    import numpy as np

    once = total(strategy.lines, values, "one_time")
    month = total(
        strategy.lines, {**values, "requests_per_month": requests}, "monthly", "per_request"
    )
    running = np.broadcast_to(np.asarray(month, dtype=float), requests.shape)
    return running, running + once / horizon_months


def _crossings(
    one: CostedStrategy,
    other: CostedStrategy,
    index: int,
    requests: ndarray,
    difference: ndarray,
    values: Mapping[str, float],
    horizon_months: int,
) -> list[Crossing]:
    """Return where the sign of a difference changes, each looked at more closely."""
    import numpy as np

    found: list[Crossing] = []
    for cell in np.nonzero(np.diff(np.sign(difference)))[0]:
        closer = np.linspace(requests[cell], requests[cell + 1], _WITHIN)
        mine, theirs = (_costs(side, values, closer, horizon_months) for side in (one, other))
        gap = mine[index] - theirs[index]
        for at in np.nonzero(np.diff(np.sign(gap)))[0]:
            if gap[at + 1] == 0:  # equal from here on; what comes after decides
                continue
            share = gap[at] / (gap[at] - gap[at + 1])
            where = closer[at] + share * (closer[at + 1] - closer[at])
            cheaper = one.id if gap[at + 1] < 0 else other.id
            if not found or found[-1].cheaper_above != cheaper:
                found.append(Crossing(requests_per_month=round(where), cheaper_above=cheaper))
    return found
