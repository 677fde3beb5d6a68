"""The costs of a scenario's strategies: exact amounts, ranges, break-evens, what matters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal, localcontext

from advisor import cost_draws
from advisor.cost_break_even import compare_volumes
from advisor.cost_hosted import add_hosted, served_by
from advisor.cost_models import MeasuredSpeed, add_models
from advisor.cost_prices import add_prices, override
from advisor.cost_report import CostReport, DayRange, StrategyCost, UsdRange
from advisor.cost_workload import add_workload
from advisor.input_book import InputBook, exact
from advisor.scenario import Scenario
from advisor.strategies import CostedStrategy, costed_strategies
from estimator.cost import break_even_accuracy
from estimator.cost_ledger import CostInput, LineItem, Missing, Values, read_item, total

HORIZON_MONTHS = 24
DRAWS = 1000
_DIGITS = 60
"""Enough for a millionth of a dollar of any amount that a workload can come to."""

_NOTES = (
    "Totals are the p50 of random draws (triangular between the ends of each range, highest at the "
    "middle): half of the draws lie below. p10 and p90 come from the same draws.",
    "Single items, break-evens and what one input does take the middle of every range. Their sums "
    "are lower than the p50 where ranges reach further up than down.",
    "A month has 730 hours. GPUs that serve are always on.",
    "Time to a first version adds up work, labels and training, one after another, by one person.",
    "What answers are worth, and how good they are, is not in these costs.",
)


def reckon_costs(
    scenario: Scenario,
    *,
    today: date,
    draws: int = DRAWS,
    seed: int = 0,
    measured: MeasuredSpeed | None = None,
) -> CostReport:
    """Return what every strategy costs over the scenario's workload.

    Args:
        scenario: What is missing in it is assumed or left unknown; the result says which.
        today: The day for which prices are taken, and their age is told.
        draws: Random draws for ranges.
        seed: What they begin with.
        measured: How fast a run trained, in place of the formula.

    Raises:
        InputError: The scenario names a model, a GPU or a provider that does not exist.
    """
    with localcontext() as context:
        context.prec = _DIGITS
        return _reckon(scenario, today, draws, seed, measured)


def _reckon(
    scenario: Scenario, today: date, draws: int, seed: int, measured: MeasuredSpeed | None
) -> CostReport:
    book = InputBook()
    add_workload(book, scenario)
    add_prices(book, scenario, today)
    add_models(book, scenario, today, measured)
    growth = _growth(scenario)
    offer = add_hosted(book, scenario, today, growth)
    override(book, scenario)
    strategies = costed_strategies(served_by(book))
    drawn = cost_draws.draw(book.inputs.values(), draws, seed)
    costs = []
    for strategy in strategies:
        cost = _read(strategy, book, growth)
        cost = _with_ranges(cost, strategy, book, growth, drawn)
        if strategy.id == "finetune_hosted" and offer is not None:
            cost = cost.model_copy(update={"available_until": offer.new_jobs_until})
        costs.append(_with_accuracy(cost, scenario))
    used = _used(costs)
    known = [one for one, cost in zip(strategies, costs, strict=True) if cost.total_usd is not None]
    break_evens, curves = compare_volumes(known, book.mids(), HORIZON_MONTHS)
    return CostReport(
        title=scenario.title,
        today=today,
        horizon_months=HORIZON_MONTHS,
        draws=draws,
        seed=seed,
        requests_by_month=_requests(book, growth),
        inputs=tuple(one for name, one in book.inputs.items() if name in used),
        strategies=tuple(costs),
        break_evens=break_evens,
        curves=curves,
        break_even_accuracy=_accuracy(scenario, Decimal(0)),
        warnings=_warnings(book, used),
        notes=_NOTES,
    )


def _growth(scenario: Scenario) -> tuple[Decimal, ...]:
    """Return the requests of each month as a multiple of the first month's."""
    percent = scenario.workload.growth_percent_per_month if scenario.workload else 0
    monthly = 1 + exact(percent) / 100
    # not even the first month's requests are 0 to the power of 0, which Decimal has no value for
    return (Decimal(1), *(monthly**month for month in range(1, HORIZON_MONTHS)))


def _requests(book: InputBook, growth: tuple[Decimal, ...]) -> tuple[int, ...] | None:
    first = book.inputs.get("requests_per_month")
    return tuple(round(first.mid * factor) for factor in growth) if first else None


def _read(strategy: CostedStrategy, book: InputBook, growth: tuple[Decimal, ...]) -> StrategyCost:
    """Return the exact amounts of a strategy."""
    mids = book.mids()
    items = tuple(read_item(line, mids, book.unknown) for line in strategy.lines)
    once = _sum(items, "one_time")
    by_month = _by_month(strategy, book, mids, growth)
    month = by_month[0] if by_month else None
    requests = mids.get("requests_per_month")
    cumulative = None
    if once is not None and by_month:
        cumulative = tuple(
            once + sum(by_month[: index + 1], Decimal(0)) for index in range(len(by_month))
        )
    per_1000 = month / requests * 1000 if month is not None and requests else None
    return StrategyCost(
        id=strategy.id,
        title=strategy.title,
        strategy=strategy.strategy,
        lines=items,
        one_time_usd=once,
        monthly_usd=month,
        usd_per_1000_requests=per_1000.quantize(Decimal("0.000001")) if per_1000 else per_1000,
        total_usd=cumulative[-1] if cumulative else None,
        monthly_usd_by_month=by_month,
        cumulative_usd_by_month=cumulative,
        days_to_first_version=None,
        one_time_range=None,
        monthly_range=None,
        total_range=None,
        unknown=tuple(dict.fromkeys(item.unknown for item in items if item.unknown)),
    )


def _sum(items: tuple[LineItem, ...], *kinds: str) -> Decimal | None:
    amounts = [item.usd for item in items if item.when in kinds]
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if len(known) == len(amounts) else None


def _by_month(
    strategy: CostedStrategy,
    book: InputBook,
    mids: Mapping[str, Decimal],
    growth: tuple[Decimal, ...],
) -> tuple[Decimal, ...] | None:
    requests = _requests(book, growth)
    if requests is None:
        return None
    lines = [line for line in strategy.lines if line.when in ("monthly", "per_request")]
    amounts: dict[int, Decimal] = {}
    for count in dict.fromkeys(requests):
        known = {**mids, "requests_per_month": Decimal(count)}
        found = _sum(
            tuple(read_item(line, known, book.unknown) for line in lines), "monthly", "per_request"
        )
        if found is None:
            return None
        amounts[count] = found
    return tuple(amounts[count] for count in requests)


def _with_ranges(
    cost: StrategyCost,
    strategy: CostedStrategy,
    book: InputBook,
    growth: tuple[Decimal, ...],
    drawn: cost_draws.Arrays,
) -> StrategyCost:
    """Return a strategy's cost with its ranges, as far as its amounts are known."""
    update: dict[str, object] = {"days_to_first_version": _days(strategy, book, drawn)}
    values = Values(drawn, book.unknown)
    factors = tuple(float(factor) for factor in growth)
    if cost.one_time_usd is not None:
        update["one_time_range"] = _range(total(strategy.lines, values, "one_time"))
    if cost.monthly_usd is not None:
        month = total(strategy.lines, values, "monthly", "per_request")
        update["monthly_range"] = _range(month)
        if cost.usd_per_1000_requests is not None:
            update["per_1000_range"] = _range(month / drawn["requests_per_month"] * 1000)
    if cost.total_usd is not None:
        once, by_month = cost_draws.over_months(strategy.lines, drawn, factors)
        paid = once + by_month.cumsum(axis=0)
        names = {name for item in cost.lines for name in item.inputs}
        inputs = [one for name, one in book.inputs.items() if name in names]
        update["total_range"] = _range(paid[-1])
        update["cumulative_p50_by_month"] = cost_draws.medians(paid)
        update["tornado"] = cost_draws.tornado(strategy.lines, inputs, factors)
    return cost.model_copy(update=update)


def _range(amounts: object) -> UsdRange:
    import numpy as np

    return cost_draws.usd_range(np.asarray(amounts, dtype=float))


def _days(strategy: CostedStrategy, book: InputBook, drawn: cost_draws.Arrays) -> DayRange | None:
    try:
        likely = total(strategy.lines, Values(book.mids(), book.unknown), "days")
        spread = _range(total(strategy.lines, Values(drawn, book.unknown), "days"))
    except Missing:
        return None
    tenth = Decimal("0.1")
    return DayRange(
        likely=likely.quantize(tenth),
        p10=spread.p10.quantize(tenth),
        p50=spread.p50.quantize(tenth),
        p90=spread.p90.quantize(tenth),
    )


def _with_accuracy(cost: StrategyCost, scenario: Scenario) -> StrategyCost:
    per_1000 = cost.usd_per_1000_requests
    if per_1000 is None:
        return cost
    return cost.model_copy(update={"break_even_accuracy": _accuracy(scenario, per_1000 / 1000)})


def _accuracy(scenario: Scenario, request_usd: Decimal) -> Decimal | None:
    workload = scenario.workload
    if workload is None or workload.success_usd is None or workload.failure_usd is None:
        return None
    found = break_even_accuracy(
        exact(workload.success_usd), exact(workload.failure_usd), request_usd
    )
    return found.quantize(Decimal("0.0001"))


def _used(costs: list[StrategyCost]) -> set[str]:
    return {name for cost in costs for item in cost.lines for name in item.inputs}


def _warnings(book: InputBook, used: set[str]) -> tuple[str, ...]:
    prices: list[CostInput] = [one for name, one in book.inputs.items() if name in used]
    found = [*book.notes, *(one.warning for one in prices if one.warning)]
    return tuple(dict.fromkeys(found))
