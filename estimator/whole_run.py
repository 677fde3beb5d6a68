"""What a whole fine-tune would take, told from the steps that a probe measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from math import ceil
from statistics import median

from estimator.cheapest import GpuPrice, gpu_prices
from estimator.plan import FineTunePlan
from estimator.records import Record
from estimator.throughput import Span
from estimator.training_steps import Examples, count_micro_batches, count_rows, count_steps

_SECONDS_PER_HOUR = 3600

_ALL_BUT_FILLED = 0.98
"""Steps filled to this share on average are not worth a word."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """How long the timed steps of a probe took.

    Attributes:
        low: Seconds of the fastest step.
        likely: Their median.
        high: Their 95th percentile.
        optimizer: Median seconds of a step's optimizer phase, clipping included.
        num_steps: How many there were.
        on_own_data: Whether they were taken on the user's own examples.
    """

    low: float
    likely: float
    high: float
    optimizer: float
    num_steps: int
    on_own_data: bool


class UsdSpan(Record):
    """An amount of US dollars with its range."""

    low: Decimal
    likely: Decimal
    high: Decimal


class WholeRun(Record):
    """The time and money of a whole fine-tune: ``num_steps`` steps.

    ``step_seconds`` are those of the plan's whole step, of every micro-batch. ``hours`` is None
    where nobody says how many examples there are, ``usd`` also where the steps were not taken on
    a GPU with known prices; ``unknown`` says why. ``usd`` runs from the lowest price at the
    shortest time to the highest at the longest.
    """

    num_steps: int | None
    step_seconds: Span
    hours: Span | None = None
    usd: UsdSpan | None = None
    gpu: str | None = None
    num_prices: int = 0
    prices_from: date | None = None
    prices_to: date | None = None
    unknown: str = ""
    assumptions: tuple[str, ...] = ()


def whole_run(
    plan: FineTunePlan, times: StepTimes, examples: Examples | None, gpu: str | None
) -> WholeRun:
    """Return what the whole fine-tune of a plan would take.

    Time is micro-batches x seconds of one, and steps x seconds of the optimizer, which runs once a
    step. All measured micro-batches are full; an epoch's last one may hold fewer rows, and its last
    step fewer micro-batches. A smaller micro-batch takes its share of a full one's time at least,
    and as long as a full one at most, where the time goes into launching kernels. The range is that
    of the measured steps beside: every step as fast as the fastest, every step as slow as the 95th
    percentile. Known error: what slows a GPU down over hours (heat, other users, a slow disk) shows
    in no short probe.

    Args:
        plan: What was measured.
        times: How long its steps took.
        examples: What is trained on; None takes what the plan says of it.
        gpu: The catalogue's name of the GPU; None on a CPU or one without known prices.
    """
    step = Span(
        low=_whole_step(plan, times.low, times.optimizer),
        likely=_whole_step(plan, times.likely, times.optimizer),
        high=_whole_step(plan, times.high, times.optimizer),
    )
    if examples is None and plan.data.num_examples is not None:
        examples = Examples(plan.data.num_examples, plan.data.tokens_per_example)
    if examples is None:
        unknown = "Nobody says how many examples there are: set data.num_examples or name a file."
        return WholeRun(num_steps=None, step_seconds=step, unknown=unknown)
    num_steps = count_steps(plan, examples)
    hours = _hours(plan, times, examples, num_steps)
    prices = _prices(gpu)
    unknown = ""
    if gpu is None:
        unknown = "No price: the steps were not measured on a GPU of the catalogue."
    elif not prices:
        unknown = f"No price of {gpu} is in the catalogue."
    return WholeRun(
        num_steps=num_steps,
        step_seconds=step,
        hours=hours,
        usd=_usd(hours, prices) if prices else None,
        gpu=gpu,
        num_prices=len(prices),
        prices_from=min((price.checked_at for price in prices), default=None),
        prices_to=max((price.checked_at for price in prices), default=None),
        unknown=unknown,
        assumptions=tuple(_assumptions(plan, times, examples, prices)),
    )


def _whole_step(plan: FineTunePlan, seconds: float, optimizer: float) -> float:
    optimizer = min(optimizer, seconds)
    return _micro_batch(plan, seconds, optimizer) * plan.gradient_accumulation_steps + optimizer


def _micro_batch(plan: FineTunePlan, seconds: float, optimizer: float) -> float:
    """Return the seconds of one full micro-batch, told from those of a measured step."""
    return max(0.0, seconds - optimizer) / plan.micro_steps_taken


def _hours(plan: FineTunePlan, times: StepTimes, examples: Examples, num_steps: int) -> Span:
    rows_at_once = plan.micro_batch_size * plan.parallel.data_parallel_size
    by_rows = plan.epochs * count_rows(plan, examples) / rows_at_once
    begun = plan.epochs * count_micro_batches(plan, examples)
    filled = _filled(plan, times, examples)

    def hours(seconds: float, micro_batches: float) -> float:
        optimizer = min(times.optimizer, seconds)
        forth_and_back = micro_batches * _micro_batch(plan, seconds, optimizer)
        return (forth_and_back + num_steps * optimizer) / _SECONDS_PER_HOUR

    return Span(
        low=hours(times.low, by_rows) * filled,
        likely=hours(times.likely, by_rows),
        high=hours(times.high, begun),
    )


def _filled(plan: FineTunePlan, times: StepTimes, examples: Examples) -> float:
    """Return the share of a measured step that shorter examples would need, at least."""
    if times.on_own_data or not plan.padded or examples.tokens_per_example is None:
        return 1.0
    return min(1.0, examples.tokens_per_example / plan.seq_len)


def _prices(gpu: str | None) -> list[GpuPrice]:
    """Return the prices of one GPU alone; of several together only where none rents out one."""
    every = [price for price in gpu_prices() if price.gpu == gpu]
    return [price for price in every if price.min_gpus == 1] or every


def _usd(hours: Span, prices: list[GpuPrice]) -> UsdSpan:
    rates = [price.usd_per_hour for price in prices]
    return UsdSpan(
        low=_cents(hours.low, min(rates)),
        likely=_cents(hours.likely, median(rates)),
        high=_cents(hours.high, max(rates)),
    )


def _cents(hours: float, usd_per_hour: Decimal) -> Decimal:
    return (Decimal(str(hours)) * usd_per_hour).quantize(Decimal("0.0001"))


def _assumptions(
    plan: FineTunePlan, times: StepTimes, examples: Examples, prices: list[GpuPrice]
) -> Iterator[str]:
    yield (
        f"A full step takes as long as the {times.num_steps} timed ones did: the range is their "
        "fastest to their 95th percentile. Loading, evaluation and saving come on top."
    )
    if note := _part_filled(plan, examples):
        yield note
    if held := plan.schedule.validation_fraction:
        whole = f"{examples.num_examples:,} examples"
        yield f"{held * 100:g} % of the {whole} are held out for validation."
    if plan.gradient_accumulation_steps > plan.micro_steps_taken:
        planned, taken = plan.gradient_accumulation_steps, plan.micro_steps_taken
        yield f"Of {planned} micro-batches a step {taken} were measured; the others take as long."
    if not plan.padded and examples.tokens_per_example is None:
        yield f"Each example fills a row of {plan.seq_len:,} tokens: their real length is unknown."
    if not times.on_own_data:
        yield "The timed steps were taken on random tokens of full length."
    if prices and prices[0].min_gpus > 1:
        yield f"The GPU is rented {prices[0].min_gpus} at a time, and all of them are paid for."


def _part_filled(plan: FineTunePlan, examples: Examples) -> str:
    """Say that an epoch's last step is smaller than the others, where that is much of the time."""
    rows = count_rows(plan, examples)
    rows_at_once = plan.micro_batch_size * plan.parallel.data_parallel_size
    rows_of_step = rows_at_once * plan.gradient_accumulation_steps
    steps = ceil(rows / rows_of_step)
    if rows > _ALL_BUT_FILLED * steps * rows_of_step:
        return ""
    last = rows - (steps - 1) * rows_of_step
    return (
        f"An epoch's last step has {last:,} of {rows_of_step:,} rows: micro-batches are counted by "
        "their rows, and in the upper end of the range as full ones."
    )
