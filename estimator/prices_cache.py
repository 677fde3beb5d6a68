"""From how many tokens on, and for how long, providers of API models cache a prompt."""

from __future__ import annotations

import csv
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from estimator.records import Record

_TABLE = Path(__file__).with_name("data") / "prompt_caches.csv"


class PromptCache(Record):
    """What a provider's documentation says of one model's cache.

    Attributes:
        provider: As genai-prices calls it.
        model: The model's id, or the beginning of several with a ``*``.
        least_tokens: The fewest tokens that are cached: low, middle and high; None where the
            documentation does not say.
        lifetime_seconds: How long a prompt is kept after its last use, likewise.
        checked_at: The day for which the documentation is known to say so.
        source: Where it stands.
    """

    provider: str
    model: str
    least_tokens: tuple[int, int, int] | None
    lifetime_seconds: tuple[int, int, int] | None
    checked_at: date
    source: str


@cache
def _caches() -> tuple[PromptCache, ...]:
    with _TABLE.open(encoding="utf-8", newline="") as stream:
        return tuple(
            PromptCache.model_validate(
                {name: row[name] for name in ("provider", "model", "checked_at", "source")}
                | {name: _range(row, name) for name in ("least_tokens", "lifetime_seconds")}
            )
            for row in csv.DictReader(stream)
        )


def _range(row: dict[str, str], name: str) -> tuple[str, str, str] | None:
    if not row[name]:
        return None
    return row[f"{name}_low"], row[name], row[f"{name}_high"]


def find_prompt_cache(provider: str, model: str) -> PromptCache | None:
    """Return what is known of a model's cache, None where nothing is: the first row that fits."""
    return next(
        (one for one in _caches() if one.provider == provider and fnmatchcase(model, one.model)),
        None,
    )
