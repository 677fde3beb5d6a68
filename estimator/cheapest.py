"""Which of the GPUs that fit a plan is the cheapest."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Literal

from estimator.estimate import Fits, GpuFit
from estimator.prices_gpu import GpuPrice, gpu_prices
from estimator.records import Record

__all__ = ["GpuOffer", "GpuPrice", "cheapest_gpus", "gpu_prices"]


class GpuOffer(Record):
    """A GPU that a plan fits, with the cheapest price known for it.

    Where no price is known, everything from ``usd_per_hour`` to ``source`` is None.
    ``confirmed_by`` is what its verdict was checked with, beyond the reading it was told from.
    """

    gpu: str
    memory_bytes: int
    fits: Fits
    headroom_bytes: int
    usd_per_hour: Decimal | None = None
    provider: str | None = None
    tier: str | None = None
    min_gpus: int | None = None
    checked_at: date | None = None
    source: str | None = None
    confirmed_by: Literal["dry-run"] | None = None


def cheapest_gpus(fits: Iterable[GpuFit]) -> list[GpuOffer]:
    """Return the GPUs that a plan fits, those with room to spare before the tight ones.

    Among either the cheapest hour comes first, and GPUs without a known price last, the
    smallest first.

    Args:
        fits: Verdicts on the GPUs to choose from.
    """
    offers = [_offer(fit) for fit in fits if fit.fits != "no"]
    return sorted(offers, key=_rank)


def _rank(offer: GpuOffer) -> tuple[bool, bool, Decimal, int]:
    price = offer.usd_per_hour
    return offer.fits == "tight", price is None, price or Decimal(0), offer.memory_bytes


def _offer(fit: GpuFit) -> GpuOffer:
    prices = (price for price in gpu_prices() if price.gpu == fit.name)
    best = min(prices, key=lambda price: price.usd_per_hour, default=None)
    offer = GpuOffer(
        gpu=fit.name,
        memory_bytes=fit.memory_bytes,
        fits=fit.fits,
        headroom_bytes=fit.headroom_bytes,
    )
    if best is None:
        return offer
    known = {
        "usd_per_hour": best.usd_per_hour,
        "provider": best.provider,
        "tier": best.tier,
        "min_gpus": best.min_gpus,
        "checked_at": best.checked_at,
        "source": best.source,
    }
    return offer.model_copy(update=known)
