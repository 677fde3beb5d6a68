"""Who still trains hosted weights, and until when."""

from __future__ import annotations

from datetime import date
from functools import cache

from advisor.bundled import read_bundled
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
    """Return every host whose offer is known, ended ones too."""
    return tuple(HostedOffer(**row) for row in read_bundled("hosted")["offers"])
