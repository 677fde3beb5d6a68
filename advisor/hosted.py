"""Who still trains hosted weights, and until when."""

from __future__ import annotations

from datetime import date
from functools import cache

from advisor.bundled import read_bundled
from estimator.prices_hosted import hosted_offers as priced_offers
from estimator.records import Record


class HostedOffer(Record):
    """A host's fine-tuning. ``ends`` is the last day on which it takes new jobs, if known."""

    provider: str
    ends: date | None = None
    note: str
    source: str
    checked_at: date

    @property
    def sentence(self) -> str:
        """The offer in words, with its date."""
        until = f"no new jobs after {self.ends.isoformat()}. " if self.ends else ""
        return f"{self.provider}: {until}{self.note} (checked {self.checked_at.isoformat()})"


@cache
def hosted_offers() -> tuple[HostedOffer, ...]:
    """Return every host whose offer is known, ended ones too, with the ends beside the prices."""
    ends = {one.provider: (one.new_jobs_until, one.served_until) for one in priced_offers()}
    return tuple(
        _offer(row, *ends.get(row["provider"], ())) for row in read_bundled("hosted")["offers"]
    )


def _offer(
    row: dict[str, str], ends: date | None = None, served_until: date | None = None
) -> HostedOffer:
    note = row["note"]
    if served_until is not None and served_until != ends:
        note += f" Tuned models answer until {served_until.isoformat()}."
    return HostedOffer.model_validate(row | {"ends": ends, "note": note})
