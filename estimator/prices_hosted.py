"""Who fine-tunes a model for money, for how much, until when, and how the result is served."""

from __future__ import annotations

import csv
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Literal

from estimator.prices import Confidence
from estimator.records import Record

_TABLE = Path(__file__).with_name("data") / "hosted_finetuning.csv"
CLOSED = "closed"
"""In place of a model's id: the provider's own models."""


class HostedOffer(Record):
    """One provider's price for fine-tuning, in US dollars per million training tokens.

    Attributes:
        model: A part of the ids of the models it is for; "closed" for the provider's own.
        serving: How a tuned model is served: on a GPU by the hour, by the token, or not known.
        new_jobs_until: The last day on which a job may be begun, None where none is announced.
        served_until: The last day on which a tuned model answers, None where none is announced.
    """

    provider: str
    method: Literal["lora", "full"]
    model: str
    min_parameters_billions: Decimal | None
    max_parameters_billions: Decimal | None
    low_usd_per_mtok: Decimal | None
    usd_per_mtok: Decimal | None
    high_usd_per_mtok: Decimal | None
    serving: Literal["gpu", "tokens", "unknown"]
    serving_gpu: str | None
    serving_usd_per_gpu_hour: Decimal | None
    serving_input_usd_per_mtok: Decimal | None
    serving_output_usd_per_mtok: Decimal | None
    new_jobs_until: date | None
    served_until: date | None
    checked_at: date | None
    source: str
    confidence: Confidence
    note: str

    def is_open(self, today: date) -> bool:
        """Return whether a job can still be begun."""
        return self.new_jobs_until is None or today <= self.new_jobs_until

    def takes(self, model: str, parameters: int) -> bool:
        """Return whether a model of that id and size can be tuned there."""
        if self.model and self.model.lower() not in model.lower():
            return False
        least, most = self.min_parameters_billions, self.max_parameters_billions
        if least is None or most is None:
            return False
        return least < Decimal(parameters) / 10**9 <= most


@cache
def hosted_offers() -> tuple[HostedOffer, ...]:
    """Return every offer of the catalogue, closed ones too."""
    with _TABLE.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        texts = ("provider", "method", "model", "source", "confidence", "note", "serving")
        return tuple(
            HostedOffer.model_validate(
                {key: value if key in texts else value or None for key, value in row.items()}
            )
            for row in rows
        )


def fitting_offers(
    model: str, parameters: int, *, method: str, today: date, provider: str | None = None
) -> tuple[HostedOffer, ...]:
    """Return the offers to choose from: open, for that model, how it is served known.

    A provider that is asked for by name is taken even where it takes no jobs any more, where it
    tunes its own models alone, or where how it serves them is not known.

    Args:
        model: The model's id.
        parameters: How many parameters it has.
        method: The plan's method; every method but ``full`` is priced as LoRA.
        today: The day on which a job would be begun.
        provider: Only this one, in any case of letters.

    Returns:
        The cheapest training first.
    """
    kind = "full" if method == "full" else "lora"
    fitting = [
        offer
        for offer in hosted_offers()
        if offer.usd_per_mtok is not None
        and offer.method == kind
        and (offer.is_open(today) or provider is not None)
        and (provider is None or offer.provider.lower() == provider.lower())
        and (offer.takes(model, parameters) or (provider is not None and offer.model == CLOSED))
    ]
    served = [offer for offer in fitting if offer.serving != "unknown"] or (
        fitting if provider else []
    )
    return tuple(sorted(served, key=lambda offer: offer.usd_per_mtok or Decimal(0)))
