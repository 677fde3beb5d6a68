"""Costs over ranges: random draws, one input at a time, and one volume of requests at a time.

Every function here works in floats, on arrays, through the same lines as the exact amounts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from advisor.cost_report import TornadoBar, UsdRange
from estimator.cost_ledger import CostInput, Line, to_micros, total

if TYPE_CHECKING:
    from numpy import ndarray

Arrays = Mapping[str, "ndarray | float"]
PERCENTILES = (10, 50, 90)


def draw(inputs: Iterable[CostInput], draws: int, seed: int) -> dict[str, ndarray | float]:
    """Return random values of every input: triangular between its ends, highest at the middle.

    Inputs are drawn one by one in the order of their names, each from a stream of its own, so an
    input that is fixed does not move the draws of others.
    """
    import numpy as np

    values: dict[str, ndarray | float] = {}
    for one in inputs:
        low, mid, high = float(one.low), float(one.mid), float(one.high)
        if not one.is_range:
            values[one.name] = mid
            continue
        stream = np.random.default_rng([seed, *one.name.encode()])
        values[one.name] = stream.triangular(low, min(max(mid, low), high), high, draws)
    return values


def over_months(
    lines: Sequence[Line], values: Arrays, growth: Sequence[float]
) -> tuple[ndarray, ndarray]:
    """Return what is paid once and every month (months x draws), where requests grow.

    Args:
        lines: A strategy's.
        values: Each input's value, or one for each draw.
        growth: The requests of each month as a multiple of the first month's.

    Raises:
        Missing: An input is not known.
    """
    import numpy as np

    factors = np.asarray(growth).reshape(-1, 1)
    requests = {"requests_per_month": np.asarray(values["requests_per_month"]) * factors}
    once = np.asarray(total(lines, values, "one_time"))
    by_month = total(lines, {**values, **requests}, "monthly", "per_request")
    return once, np.broadcast_arrays(by_month + 0 * factors, 0 * factors + once)[0]


def usd_range(amounts: ndarray) -> UsdRange:
    """Return the percentiles of an amount over draws."""
    import numpy as np

    low, mid, high = np.percentile(np.atleast_1d(amounts), PERCENTILES)
    return UsdRange(p10=usd(low), p50=usd(mid), p90=usd(high))


def medians(amounts: ndarray) -> tuple[Decimal, ...]:
    """Return the p50 of each row of draws."""
    import numpy as np

    rows = np.asarray(amounts, dtype=float)
    return tuple(usd(amount) for amount in np.percentile(rows, 50, axis=1))


def usd(amount: float) -> Decimal:
    """Return a float as dollars to a millionth."""
    return to_micros(Decimal(repr(float(amount))))


def tornado(
    lines: Sequence[Line], inputs: Sequence[CostInput], growth: Sequence[float]
) -> tuple[TornadoBar, ...]:
    """Return what each input that is a range does to one-time and all months together.

    Raises:
        Missing: An input is not known.
    """
    import numpy as np

    ranges = [one for one in inputs if one.is_range]
    values: dict[str, ndarray | float] = {}
    for one in inputs:
        column = np.full(2 * len(ranges), float(one.mid))
        if one.is_range:
            index = ranges.index(one)
            column[2 * index : 2 * index + 2] = float(one.low), float(one.high)
        values[one.name] = column
    once, by_month = over_months(lines, values, growth)
    sums = np.broadcast_to(once + by_month.sum(axis=0), 2 * len(ranges))
    bars = [
        TornadoBar(
            input=one.name,
            label=one.label,
            low_usd=usd(sums[2 * index]),
            high_usd=usd(sums[2 * index + 1]),
        )
        for index, one in enumerate(ranges)
    ]
    moving = [bar for bar in bars if bar.spread_usd]
    return tuple(sorted(moving, key=lambda bar: bar.spread_usd, reverse=True))
