"""Fetching today's GPU prices through gpuhunt, and forgetting them again: needs the network."""

from __future__ import annotations

import csv
import importlib.metadata
import logging
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from estimator.documents import write_out
from estimator.prices_gpu import (
    MAX_USD_PER_GPU_HOUR,
    GpuPrice,
    parse_prices,
    snapshot_path,
    write_prices,
)
from estimator.problems import InputError, Problem
from estimator.records import Record

if TYPE_CHECKING:
    from gpuhunt import Catalog, CatalogItem

_DATA = Path(__file__).with_name("data")


class Refreshed(Record):
    """What was fetched: how many prices of which providers, who gave none, and where it is kept."""

    path: str
    num_prices: int
    providers: tuple[str, ...]
    without_prices: tuple[str, ...]


def refresh_gpu_prices(today: date) -> Refreshed:
    """Fetch the on-demand prices that gpuhunt's catalogues hold, and keep them.

    The cheapest offer of each provider for each bundled GPU and each number of GPUs. They stand in
    place of the bundled prices of those providers until :func:`forget_gpu_prices`.

    Args:
        today: The date to write beside them.

    Raises:
        InputError: gpuhunt is not installed, the catalogues cannot be reached, or they hold
            nothing that can be used; what was kept before is still there.
    """
    catalog = _loaded_catalog()
    providers = _providers()
    version = importlib.metadata.version("gpuhunt")
    prices = list(
        _cheapest(
            price
            for id_ in catalog.catalog
            if id_ in providers
            for item in catalog.query(provider=id_, spot=False, min_gpu_count=1)
            if (price := _price(item, providers, version, today)) is not None
        )
    )
    if not prices:
        what = "gpuhunt's catalogues hold no price of a bundled GPU"
        raise InputError(Problem("tuneplan prices refresh", what, fix="update gpuhunt"))
    text = write_prices(prices)
    parse_prices(text, "the fetched prices")  # what cannot be read back is not kept
    write_out(snapshot_path(), text)
    found = {price.provider for price in prices}
    return Refreshed(
        path=str(snapshot_path()),
        num_prices=len(prices),
        providers=tuple(sorted(found)),
        without_prices=tuple(sorted({name for name, _ in providers.values()} - found)),
    )


def forget_gpu_prices() -> bool:
    """Go back to the bundled prices; return whether there were others."""
    path = snapshot_path()
    if not path.exists():
        return False
    path.unlink()
    return True


def _loaded_catalog() -> Catalog:
    try:
        from gpuhunt import Catalog, GPUHuntError
    except ImportError as error:
        what = "needs gpuhunt, which is not installed"
        fix = "pip install 'tuneplan[prices]'; until then the bundled prices are used"
        raise InputError(Problem("tuneplan prices refresh", what, fix=fix)) from error
    catalog = Catalog(auto_reload=False)
    logger = logging.getLogger("gpuhunt")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # a provider without a catalogue is named in the result
    try:
        catalog.load()
    except GPUHuntError as error:
        what = "gpuhunt's catalogues cannot be reached"
        fix = "go online and try again; until then the prices known before are used"
        raise InputError(Problem("tuneplan prices refresh", what, fix=fix)) from error
    finally:
        logger.setLevel(level)
    return catalog


def _price(
    item: CatalogItem, providers: dict[str, tuple[str, str]], version: str, today: date
) -> GpuPrice | None:
    gpu = _gpu_name(item)
    usd = Decimal(str(item.price)) / item.gpu_count
    if gpu is None or not 0 < usd <= MAX_USD_PER_GPU_HOUR:
        return None
    provider, page = providers[item.provider]
    return GpuPrice(
        gpu=gpu,
        provider=provider,
        product=" ".join(f"{item.instance_name} {item.location}".split()),
        tier="on-demand",
        usd_per_gpu_hour=round(usd, 4),
        min_gpus=item.gpu_count,
        checked_at=today,
        page=page,
        source=f"gpuhunt {version}, catalogue of {item.provider}",
    )


def _cheapest(prices: Iterable[GpuPrice]) -> Iterator[GpuPrice]:
    best: dict[tuple[str, str, int], GpuPrice] = {}
    for price in prices:
        key = (price.gpu, price.provider, price.min_gpus)
        if key not in best or price.usd_per_gpu_hour < best[key].usd_per_gpu_hour:
            best[key] = price
    for key in sorted(best):
        yield best[key]


def _gpu_name(item: CatalogItem) -> str | None:
    name, memory = item.gpu_name, item.gpu_memory
    if name is None or memory is None:
        return None
    for row in _rows("gpuhunt_gpus.csv"):
        fits = row["gpu_name"] == name and float(row["memory_gb"]) == memory
        if fits and row["instance_has"].lower() in item.instance_name.lower():
            return row["gpu"]
    return None


def _providers() -> dict[str, tuple[str, str]]:
    """Map gpuhunt's name of each provider to ours, and to the page with its prices."""
    return {row["id"]: (row["provider"], row["page"]) for row in _rows("gpuhunt_providers.csv")}


@cache
def _rows(name: str) -> list[dict[str, str]]:
    with (_DATA / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
