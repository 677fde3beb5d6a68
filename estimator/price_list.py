"""Every price that is known, in one list."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal

from estimator.prices import PRICE_NAMES, Price, age_warning, service_prices
from estimator.prices_api import ApiPrice, find_api_model
from estimator.prices_gpu import gpu_prices, snapshot_path
from estimator.prices_hosted import HostedOffer, hosted_offers
from estimator.records import Record

API_MODELS = (
    "gpt-6-luna",
    "claude-haiku-5-5",
    "gemini-3.8-flash",
    "gpt-6-sol",
    "claude-sonnet-5-5",
    "claude-opus-5-5",
    "gpt-6-astra",
)
"""Shown where none is asked for: of three makers, from the cheapest to the dearest."""


class GpuOfferRow(Record):
    """One GPU price, and whether it is old."""

    gpu: str
    provider: str
    product: str
    tier: str
    usd_per_gpu_hour: Decimal
    min_gpus: int
    checked_at: date
    page: str
    source: str
    is_old: bool


class HostedRow(Record):
    """One offer of hosted fine-tuning, whether it is open, and whether its price is old."""

    offer: HostedOffer
    is_open: bool
    is_old: bool


class PriceList(Record):
    """Every known price.

    ``overrides`` are the names that a scenario's ``prices`` may set, with their units;
    ``fetched_prices`` is where fetched GPU prices are kept, None where there are none.
    """

    today: date
    gpus: tuple[GpuOfferRow, ...]
    api: tuple[ApiPrice, ...]
    hosted: tuple[HostedRow, ...]
    services: tuple[Price, ...]
    overrides: dict[str, str]
    fetched_prices: str | None
    warnings: tuple[str, ...]


def list_prices(models: Iterable[str], *, today: date) -> PriceList:
    """Return every price, with those of some API models.

    Args:
        models: Which API models; a few common ones where none is named.
        today: The day for which ages are told.

    Raises:
        InputError: An API model has no price, or the fetched GPU prices are damaged.
    """
    gpus = [
        GpuOfferRow(
            gpu=one.gpu,
            provider=one.provider,
            product=one.product,
            tier=one.tier,
            usd_per_gpu_hour=one.usd_per_gpu_hour,
            min_gpus=one.min_gpus,
            checked_at=one.checked_at,
            page=one.page,
            source=one.source,
            is_old=age_warning(one.gpu, one.checked_at, today) is not None,
        )
        for one in gpu_prices()
    ]
    api = [
        find_api_model(name, where="--model").price(prompt_tokens=0, today=today)
        for name in models or API_MODELS
    ]
    hosted = [
        HostedRow(
            offer=one,
            is_open=one.is_open(today),
            is_old=age_warning(one.provider, one.checked_at, today) is not None,
        )
        for one in hosted_offers()
    ]
    warnings = [
        age_warning(one.label, one.checked_at, today)
        for one in service_prices()
        if one.checked_at is not None
    ]
    old = sum(row.is_old for row in gpus)
    if old:
        warnings.append(f"{old} of {len(gpus)} GPU prices are older than 90 days.")
    return PriceList(
        today=today,
        gpus=tuple(gpus),
        api=tuple(api),
        hosted=tuple(hosted),
        services=service_prices(),
        overrides=PRICE_NAMES,
        fetched_prices=str(snapshot_path()) if snapshot_path().exists() else None,
        warnings=tuple(filter(None, warnings)),
    )
