"""What GPUs cost by the hour: the bundled snapshot, and one that was fetched since."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path

from estimator.documents import is_there, read_text
from estimator.gpus import bundled_gpus
from estimator.home import home_folder
from estimator.problems import InputError, Problem

_BUNDLED = Path(__file__).with_name("data") / "gpu_prices.csv"
COLUMNS = (
    "gpu",
    "provider",
    "product",
    "tier",
    "usd_per_gpu_hour",
    "min_gpus",
    "checked_at",
    "page",
    "source",
    "licence",
)
MAX_USD_PER_GPU_HOUR = 100
"""No GPU of the catalogue was ever let for as much: a price above it is a mistake."""


@dataclass(frozen=True, slots=True)
class GpuPrice:
    """What somebody asked for a GPU on a day.

    Attributes:
        gpu: Its name in the catalogue.
        provider: Who lets it.
        product: The provider's own name for it, or "".
        tier: On-demand, community, marketplace and the like.
        usd_per_gpu_hour: For one GPU.
        min_gpus: How many must be rented together.
        checked_at: The day on which the source had the price.
        page: Where the provider itself shows it, or "".
        source: Where it was read.
    """

    gpu: str
    provider: str
    product: str
    tier: str
    usd_per_gpu_hour: Decimal
    min_gpus: int
    checked_at: date
    page: str
    source: str

    @property
    def usd_per_hour(self) -> Decimal:
        """What is paid for an hour, even where one GPU of several is used."""
        return self.usd_per_gpu_hour * self.min_gpus

    @property
    def words(self) -> str:
        """Who asked this price, and for what: ``Lambda 1x H100 SXM, on-demand``."""
        return f"{' '.join(filter(None, (self.provider, self.product)))}, {self.tier}"


def snapshot_path() -> Path:
    """Return where fetched prices are kept."""
    return home_folder() / "prices" / "gpu_prices.csv"


def gpu_prices() -> tuple[GpuPrice, ...]:
    """Return every known price: where a provider's prices were fetched, those in place of ours.

    Raises:
        InputError: The fetched snapshot is damaged.
    """
    path = snapshot_path()
    if not is_there(path):
        return _bundled()
    stamp = path.stat()
    return _merged(path, stamp.st_mtime_ns, stamp.st_size)


@cache
def _bundled() -> tuple[GpuPrice, ...]:
    return parse_prices(_BUNDLED.read_text(encoding="utf-8"), _BUNDLED.name)


@cache
def _merged(path: Path, _changed_at: int, _size: int) -> tuple[GpuPrice, ...]:
    fetched = parse_prices(read_text(path), str(path))
    providers = {price.provider for price in fetched}
    return tuple(price for price in _bundled() if price.provider not in providers) + fetched


def parse_prices(text: str, name: str) -> tuple[GpuPrice, ...]:
    """Return the prices in a CSV text.

    Raises:
        InputError: A row is no price of a bundled GPU; it lists every such row.
    """
    known = {gpu.name for gpu in bundled_gpus()}
    rows = csv.DictReader(io.StringIO(text))
    prices, problems = [], []
    for number, row in enumerate(rows, start=2):
        price = _price(row)
        if price is None or price.gpu not in known:
            fix = "tuneplan prices forget, then refresh again"
            problems.append(Problem(f"{name}: line {number}", "is no price of a GPU", fix=fix))
        else:
            prices.append(price)
    if not prices and not problems:
        problems.append(Problem(name, "holds no price", fix="tuneplan prices forget"))
    if problems:
        raise InputError(problems)
    return tuple(prices)


def _price(row: dict[str, str]) -> GpuPrice | None:
    try:
        price = GpuPrice(
            gpu=row["gpu"],
            provider=row["provider"],
            product=row["product"],
            tier=row["tier"],
            usd_per_gpu_hour=Decimal(row["usd_per_gpu_hour"]),
            min_gpus=int(row["min_gpus"]),
            checked_at=date.fromisoformat(row["checked_at"]),
            page=row["page"],
            source=row["source"],
        )
    except (KeyError, TypeError, ValueError, InvalidOperation):
        return None
    is_sane = 0 < price.usd_per_gpu_hour <= MAX_USD_PER_GPU_HOUR and price.min_gpus > 0
    return price if is_sane and price.provider and price.source else None


def write_prices(prices: Iterable[GpuPrice]) -> str:
    """Return prices as the CSV text that :func:`parse_prices` reads."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in prices:
        cells = {**{name: getattr(one, name, "") for name in COLUMNS}}
        writer.writerow([str(cells[name]) for name in COLUMNS])
    return stream.getvalue()


@dataclass(frozen=True, slots=True)
class OfferRange:
    """Three real offers for one GPU: the lower quartile, the median and the upper quartile."""

    low: GpuPrice
    mid: GpuPrice
    high: GpuPrice
    num_offers: int


def offers_for(gpu: str) -> OfferRange | None:
    """Return the range of what one GPU costs by the hour; None where no price is known.

    Offers of a single GPU where there are any; else those of several that must be rented
    together, whose price then counts for each GPU.
    """
    offers = [price for price in gpu_prices() if price.gpu == gpu]
    single = [price for price in offers if price.min_gpus == 1] or offers
    if not single:
        return None
    by_price = sorted(single, key=lambda price: price.usd_per_gpu_hour)
    low, mid, high = (by_price[round(share * (len(by_price) - 1))] for share in (0.25, 0.5, 0.75))
    return OfferRange(low, mid, high, len(single))
