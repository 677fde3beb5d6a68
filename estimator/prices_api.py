"""What API models cost per token, from the data that genai-prices brings along (no network)."""

from __future__ import annotations

import csv
import difflib
import importlib.metadata
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.problems import InputError, Problem
from estimator.records import Record

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

_DATES = Path(__file__).with_name("data") / "price_dates.csv"
_MAKERS = ("openai", "anthropic", "google", "mistral", "x-ai", "deepseek", "cohere", "meta")
"""Asked before providers that resell their models."""


class ApiPrice(Record):
    """Prices of one API model in US dollars per million tokens.

    Cached prices are None where the provider has no cache of that kind, batch prices where it
    takes no batches. ``context_window`` is how many tokens a prompt may have, where it is known.
    """

    model: str
    provider: str
    input_mtok: Decimal
    output_mtok: Decimal
    cached_read_mtok: Decimal | None
    cache_write_mtok: Decimal | None
    cache_write_1h_mtok: Decimal | None
    batch_input_mtok: Decimal | None
    batch_output_mtok: Decimal | None
    context_window: int | None
    page: str
    source: str
    checked_at: date | None


@dataclass(frozen=True, slots=True)
class ApiModel:
    """An API model that genai-prices knows."""

    info: ModelInfo
    provider: Provider

    def price(self, *, prompt_tokens: int, today: date) -> ApiPrice:
        """Return the prices of a request whose prompt has that many tokens.

        Args:
            prompt_tokens: All of the prompt; some models cost more beyond a threshold.
            today: Some prices begin on a day.
        """
        now = datetime.combine(today, time(12), tzinfo=UTC)
        normal = _plain(self.info.get_prices(now), prompt_tokens)
        in_batch = _plain(self.info.get_prices(now, {"processing": "batch"}), prompt_tokens)
        has_batch = any(one.when == {"processing": "batch"} for one in _variants(self.info))
        version, checked_at = _package()
        return ApiPrice(
            model=self.info.id,
            provider=self.provider.id,
            input_mtok=normal["input_mtok"],
            output_mtok=normal.get("output_mtok", Decimal(0)),
            cached_read_mtok=normal.get("cache_read_mtok"),
            cache_write_mtok=normal.get("cache_write_mtok"),
            cache_write_1h_mtok=normal.get("cache_write_1h_mtok"),
            batch_input_mtok=in_batch["input_mtok"] if has_batch else None,
            batch_output_mtok=in_batch.get("output_mtok") if has_batch else None,
            context_window=self.info.context_window,
            page=(self.provider.pricing_urls or [""])[0],
            source=f"genai-prices {version}, {self.provider.id}",
            checked_at=checked_at,
        )


def _variants(info: ModelInfo) -> list[Any]:
    return info.price_variants or []


def _plain(prices: Any, prompt_tokens: int) -> dict[str, Decimal]:
    """Return each price of a model, of prices in tiers the one for a prompt of that length."""
    found = {}
    for name, price in prices.__dict__.items():
        if isinstance(price, Decimal):
            found[name] = price
        elif price is not None:
            reached = [tier.price for tier in price.tiers if prompt_tokens > tier.start]
            found[name] = reached[-1] if reached else price.base
    return found


@cache
def _package() -> tuple[str, date | None]:
    version = importlib.metadata.version("genai-prices")
    with _DATES.open(encoding="utf-8", newline="") as stream:
        dates = {row["version"]: row["checked_at"] for row in csv.DictReader(stream)}
    found = dates.get(version)
    return version, date.fromisoformat(found) if found else None


def find_api_model(name: str, *, where: str = "api_model") -> ApiModel:
    """Return the API model called ``name`` (``gpt-6-sol``, or ``openai/gpt-6-sol``).

    Raises:
        InputError: No provider has a price for it; it names ids that look like it.
    """
    from genai_prices.data_snapshot import get_snapshot

    providers = get_snapshot().providers
    ranked = sorted(providers, key=lambda one: _MAKERS.index(one.id) if one.id in _MAKERS else 99)
    owner, _, rest = name.partition("/")
    for provider in ranked:
        wanted = rest if rest and owner == provider.id else name
        found = next((one for one in provider.models if one.id == wanted), None)
        if found is None and (owner == provider.id or provider.id in _MAKERS):
            found = provider.find_model(wanted)
        if found is not None and "input_mtok" in _plain(found.get_prices(_now()), 0):
            return ApiModel(found, provider)
    ids = [one.id for provider in ranked if provider.id in _MAKERS for one in provider.models]
    close = difflib.get_close_matches(name, ids, 3, cutoff=0.4)
    fix = f"did you mean {' or '.join(dict.fromkeys(close))}?" if close else "see genai-prices"
    what = f"{name!r} has no price per token"
    raise InputError(Problem(where, what, "a model id that genai-prices knows", fix))


def _now() -> datetime:
    return datetime.now(tz=UTC)
