"""Prices with their source and date: those of services and labels, overrides, and their age."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Literal

from estimator.gpus import bundled_gpus, find_gpu
from estimator.problems import InputError, Problem
from estimator.records import Record

_SERVICES = Path(__file__).with_name("data") / "service_prices.csv"
MAX_AGE_DAYS = 90

Confidence = Literal["high", "medium", "low"]

PRICE_NAMES = {
    "api_input_mtok": "input tokens of the API model, USD per million",
    "api_cached_read_mtok": "input tokens read from its cache, USD per million",
    "api_cache_write_mtok": "input tokens written to its cache, USD per million",
    "api_output_mtok": "output tokens of the API model, USD per million",
    "gpu_hour": "every rented GPU, USD per hour, wherever a more particular name is not given",
    "gpu_hour:NAME": "rented GPUs of that name in the catalogue, USD per hour",
    "training_gpu_hour": "the GPU that fine-tunes, USD per hour",
    "serving_gpu_hour": "the GPU that serves, USD per hour",
    "pretraining_gpu_hour": "the GPU that pre-trains, USD per hour",
    "hosted_training_mtok": "hosted fine-tuning, USD per million training tokens",
    "hosted_serving_gpu_hour": "a provider's GPU that serves a tuned model, USD per hour",
    "hosted_input_mtok": "input tokens of a tuned hosted model, USD per million",
    "hosted_output_mtok": "output tokens of a tuned hosted model, USD per million",
    "embedding_mtok": "embedding, USD per million tokens",
    "rerank_request": "reranking, USD per request",
    "vector_store_month": "a vector store, USD per month",
    "label": "one labelled example, USD",
    "engineer_hour": "an hour of people's work, USD",
}
"""What a scenario's ``prices`` may override, and in which unit."""

GPU_HOUR = "gpu_hour:"
"""What the name of an override for one GPU begins with."""


class Price(Record):
    """A price with its range, and where it comes from.

    ``checked_at`` is the day on which the source had it, None where that is not known.
    """

    name: str
    label: str
    unit: str
    low: Decimal
    mid: Decimal
    high: Decimal
    source: str
    checked_at: date | None = None
    confidence: Confidence = "high"


@cache
def service_prices() -> tuple[Price, ...]:
    """Return what embedding, reranking, storing, labelling and people's time cost."""
    with _SERVICES.open(encoding="utf-8", newline="") as stream:
        return tuple(
            Price.model_validate(row | {"checked_at": row["checked_at"] or None})
            for row in csv.DictReader(stream)
        )


def age_warning(what: str, checked_at: date | None, today: date) -> str | None:
    """Return a warning where a price is older than 90 days, or of no known age."""
    if checked_at is None:
        return f"{what}: nobody knows how old this price is."
    days = (today - checked_at).days
    if days <= MAX_AGE_DAYS:
        return None
    return f"{what}: this price is {days} days old ({checked_at}); look before you decide."


def name_problems(names: Iterable[str], where: str = "prices") -> list[Problem]:
    """Return a problem for each name that is not a price's."""
    problems = []
    for name in names:
        gpu = gpu_of(name)
        if gpu is not None:
            problems += _gpu_problems(gpu, f"{where}.{name}")
            continue
        if name in PRICE_NAMES:
            continue
        close = difflib.get_close_matches(name, PRICE_NAMES, 3, cutoff=0.5)
        fix = f"did you mean {' or '.join(close)}?" if close else "remove it"
        what = "is not the name of a price"
        problems.append(Problem(f"{where}.{name}", what, ", ".join(PRICE_NAMES), fix))
    return problems


def gpu_of(name: str) -> str | None:
    """Return the GPU of an override that names one, ``gpu_hour:RTX 4090``; None for others."""
    return name.removeprefix(GPU_HOUR) if name.startswith(GPU_HOUR) else None


def _gpu_problems(gpu: str, where: str) -> tuple[Problem, ...]:
    try:
        find_gpu(gpu, where=where)
    except InputError:
        names = [one.name for one in bundled_gpus()]
        close = difflib.get_close_matches(gpu, names, 1, cutoff=0.5)
        fix = f"did you mean {GPU_HOUR}{close[0]}?" if close else "name one of them"
        return (Problem(where, f"{gpu!r} names no GPU of the catalogue", ", ".join(names), fix),)
    return ()
