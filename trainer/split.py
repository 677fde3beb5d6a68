"""Which examples are held out: decided by what they say, so that equal ones stay together."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from estimator.plan import Schedule
from trainer.examples import Example, content_digest

Side = Literal["train", "validation"]
_ALL = 2**64


@dataclass(slots=True)
class Split:
    """Sends each example to a side, and remembers whether both got one.

    An example's content and the seed give it a number; numbers below the boundary are held out.

    Attributes:
        seed: Another seed holds out other examples.
        boundary: In units of 2**-64; 0 holds nothing out.
        lowest: The lowest number met.
        highest: The highest number met.
    """

    seed: int
    boundary: int
    lowest: int = _ALL
    highest: int = -1

    @classmethod
    def of(cls, schedule: Schedule) -> Split:
        """Return the split that a schedule asks for."""
        return cls(schedule.seed, int(schedule.validation_fraction * _ALL))

    def side(self, example: Example) -> Side:
        """Return the side of an example."""
        return self.side_of(content_digest(example))

    def side_of(self, digest: int) -> Side:
        """Return the side of an example of which only its content's digest is kept."""
        value = _value(digest, self.seed)
        self.lowest = min(self.lowest, value)
        self.highest = max(self.highest, value)
        return "validation" if value < self.boundary else "train"

    def mended(self) -> Split | None:
        """Return the split to take instead where a side got nothing that could have had some.

        After all examples have been met: None where both sides have one, or nothing is to be
        held out. A small set gives its lowest number to validation, or its highest to training;
        where all examples are the same they are trained on.
        """
        if self.boundary == 0 or self.highest < 0:
            return None
        if self.highest < self.boundary:  # all held out
            return Split(self.seed, self.highest if self.lowest < self.highest else 0)
        if self.boundary <= self.lowest < self.highest:  # nothing held out
            return Split(self.seed, self.lowest + 1)
        return None


def split_of(example: Example, schedule: Schedule) -> Side:
    """Return the side of an example, where the whole set is large enough for both sides."""
    return Split.of(schedule).side(example)


def _value(digest: int, seed: int) -> int:
    """An example's number below 2**64: evenly spread, by content and seed alone."""
    data = digest.to_bytes(8) + seed.to_bytes(8)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
