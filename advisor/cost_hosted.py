"""The inputs of a cost that a provider of hosted fine-tuning gives."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from advisor.cost_models import ModelSize, add_gpu, gpu_names, model_size, no_plan
from advisor.cost_prices import override
from advisor.input_book import InputBook
from advisor.scenario import Scenario
from advisor.strategies import ServedBy, hosted_lines
from estimator.cost_ledger import Missing, Values, total
from estimator.gpus import find_gpu
from estimator.prices import age_warning
from estimator.prices_hosted import HostedOffer, fitting_offers, hosted_offers
from estimator.problems import InputError, Problem

_SERVING = ("hosted_serving_gpu_hour", "hosted_input_mtok", "hosted_output_mtok")


def add_hosted(
    book: InputBook, scenario: Scenario, today: date, growth: Sequence[Decimal]
) -> HostedOffer | None:
    """Write down what hosted fine-tuning costs; return the offer that is reckoned with.

    Of several offers it is the one whose training and serving together cost least over the
    horizon, every input in its middle; the one whose training costs least where there is no
    workload.

    Args:
        book: Everything else, already written down.
        scenario: Names the provider, or leaves it to the price.
        today: The day on which a job would be begun.
        growth: The requests of each month of the horizon as a multiple of the first month's.

    Raises:
        InputError: The workload names a provider that is not in the catalogue.
    """
    provider = _provider(scenario)
    plan = scenario.plan
    if plan is None:
        return _miss(book, no_plan(scenario))
    size = model_size(plan)
    if not isinstance(size, ModelSize):
        return _miss(book, size)
    offers = fitting_offers(
        size.name, size.parameters, method=plan.method, today=today, provider=provider
    )
    totals = {offer: _total_usd(offer, book, scenario, today, growth) for offer in offers}
    offer = min(offers, key=lambda one: totals[one], default=None)
    if offer is None:
        who = provider or "no provider of the catalogue"
        return _miss(book, f"{who} has no known price for {plan.method} of {size.name}")
    if not offer.is_open(today):
        reason = f"{offer.provider} takes no new fine-tuning jobs after {offer.new_jobs_until}"
        return _miss(book, reason)
    _add_offer(book, offer, today)
    others = {one.provider for one in offers} - {offer.provider}
    if others and totals[offer].is_finite():
        book.notes.append(
            f"Hosted fine-tuning is reckoned with {offer.provider}: training and {len(growth)} "
            f"months of serving cost less there than at {', '.join(sorted(others))}."
        )
    return offer


def _total_usd(
    offer: HostedOffer,
    book: InputBook,
    scenario: Scenario,
    today: date,
    growth: Sequence[Decimal],
) -> Decimal:
    """Return what an offer costs over the horizon; without end where that is not known."""
    trial = InputBook(dict(book.inputs), dict(book.unknown), gpus=dict(book.gpus))
    _add_offer(trial, offer, today)
    override(trial, scenario)
    lines = hosted_lines(served_by(trial))
    values = Values(trial.mids(), trial.unknown)
    try:
        paid: Decimal = total(lines, values, "one_time")
        first = values["requests_per_month"]
        for factor in growth:
            month = {**trial.mids(), "requests_per_month": first * factor}
            paid += total(lines, Values(month, trial.unknown), "monthly", "per_request")
    except Missing:
        return Decimal("Infinity")
    return paid


def served_by(book: InputBook) -> ServedBy:
    """Return how the provider of hosted fine-tuning serves what it tuned."""
    if "hosted_input_mtok" in book.inputs and "hosted_output_mtok" in book.inputs:
        return "tokens"
    return "gpu" if "hosted_serving_gpu_hour" in book.inputs else "unknown"


def _provider(scenario: Scenario) -> str | None:
    name = scenario.workload.hosted_provider if scenario.workload else None
    if name is None:
        return None
    known = list(dict.fromkeys(offer.provider for offer in hosted_offers()))
    if name.lower() not in (one.lower() for one in known):
        close = difflib.get_close_matches(name, known, 1, cutoff=0.4)
        fix = f"did you mean {close[0]}?" if close else "leave it out"
        what = f"{name!r} has no known prices"
        raise InputError(Problem("workload.hosted_provider", what, ", ".join(known), fix))
    return name


def _miss(book: InputBook, reason: str) -> None:
    book.miss(reason, "hosted_training_mtok", *_SERVING, *gpu_names("hosted"))


def _add_offer(book: InputBook, offer: HostedOffer, today: date) -> None:
    source = f"{offer.source} ({offer.confidence} confidence)"
    warning = age_warning(f"{offer.provider}, fine-tuning", offer.checked_at, today) or ""
    mid = offer.usd_per_mtok
    book.add(
        "hosted_training_mtok",
        f"training tokens at {offer.provider}",
        "USD per million tokens",
        (offer.low_usd_per_mtok or mid, mid, offer.high_usd_per_mtok or mid),
        "quoted",
        source,
        checked_at=offer.checked_at,
        warning=warning,
    )
    reason = f"how {offer.provider} charges for serving a tuned model is not in the snapshot"
    book.miss(reason, *_SERVING, *gpu_names("hosted"))
    served = {
        "hosted_serving_gpu_hour": ("a GPU that serves", offer.serving_usd_per_gpu_hour),
        "hosted_input_mtok": ("input tokens of a tuned model", offer.serving_input_usd_per_mtok),
        "hosted_output_mtok": ("output tokens of a tuned model", offer.serving_output_usd_per_mtok),
    }
    for name, (label, usd) in served.items():
        if usd is None:
            continue
        del book.unknown[name]
        unit = "USD per hour" if name.endswith("hour") else "USD per million tokens"
        words = f"{label} at {offer.provider}"
        book.add(name, words, unit, usd, "quoted", source, checked_at=offer.checked_at)
    if offer.serving_gpu is not None:
        for name in gpu_names("hosted"):
            del book.unknown[name]
        add_gpu(book, "hosted", find_gpu(offer.serving_gpu))
    if offer.new_jobs_until is not None:
        until = f", and serves until {offer.served_until}" if offer.served_until else ""
        book.notes.append(
            f"{offer.provider} takes new fine-tuning jobs until {offer.new_jobs_until}{until}."
        )
