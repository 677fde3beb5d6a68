"""What GPUs cost by the hour, and which of those that fit a plan is the cheapest."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Literal

from estimator.estimate import Fits, GpuFit
from estimator.records import Record

_TABLE = Path(__file__).with_name("data") / "gpu_prices.csv"


@dataclass(frozen=True, slots=True)
class GpuPrice:
    """What somebody asked for a GPU on a day.

    ``min_gpus`` is how many must be rented together; ``usd_per_hour`` is what that costs.
    """

    gpu: str
    provider: str
    tier: str
    usd_per_gpu_hour: Decimal
    min_gpus: int
    checked_at: date
    source: str

    @property
    def usd_per_hour(self) -> Decimal:
        """What is paid for an hour, even where one GPU of several is used."""
        return self.usd_per_gpu_hour * self.min_gpus


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


@cache
def gpu_prices() -> tuple[GpuPrice, ...]:
    """Return every price of the catalogue."""
    with _TABLE.open(encoding="utf-8", newline="") as stream:
        return tuple(_price(row) for row in csv.DictReader(stream))


def _price(row: dict[str, str]) -> GpuPrice:
    return GpuPrice(
        gpu=row["gpu"],
        provider=row["provider"],
        tier=row["tier"],
        usd_per_gpu_hour=Decimal(row["usd_per_gpu_hour"]),
        min_gpus=int(row["min_gpus"]),
        checked_at=date.fromisoformat(row["checked_at"]),
        source=row["source"],
    )


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
