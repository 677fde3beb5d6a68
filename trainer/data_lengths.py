"""How long examples are, over all of them."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from trainer.data_report import Bar, TokenCounts
from trainer.examples import ExampleSource
from trainer.tokens import Encoder

if TYPE_CHECKING:
    import numpy

BYTES_PER_TOKEN = 4
"""Of English text, by OpenAI's rule of thumb (help.openai.com, "What are tokens"). Other
languages and code take more tokens; where the tokenizer is there it is not needed."""


def as_numpy(values: array[int]) -> numpy.ndarray:
    """Return numbers as an array on the same memory."""
    import numpy

    return numpy.frombuffer(values, dtype=f"u{values.itemsize}")


def num_longer(lengths: array[int], limit: int) -> int:
    """Return how many examples have more tokens than a limit."""
    return int((as_numpy(lengths) > limit).sum()) if lengths else 0


def token_counts(
    lengths: array[int],
    where: Callable[[int], str],
    source: ExampleSource,
    encoder: Encoder | None,
) -> TokenCounts | None:
    """Return the mean, the middle and the ends of the lengths; None where there are none.

    Args:
        lengths: In tokens, of all examples.
        where: Says where the example of an index is.
        source: What the examples are from.
        encoder: What counted; None where lengths are estimated.
    """
    import numpy

    if not lengths:
        return None
    counted = as_numpy(lengths)
    longest = int(counted.argmax())
    median, p95 = numpy.percentile(counted, [50, 95])
    return TokenCounts(
        basis="tokenizer" if encoder else "estimate",
        how=_how(source, encoder),
        total=int(counted.sum(dtype="u8")),
        mean=float(counted.mean()),
        median=float(median),
        p95=float(p95),
        longest=int(counted[longest]),
        longest_at=where(longest),
        histogram=_histogram(counted),
    )


def _how(source: ExampleSource, encoder: Encoder | None) -> str:
    if encoder is None:
        return f"estimated: a token is {BYTES_PER_TOKEN} bytes of text, as in English"
    is_chat = source.format in ("chat", "instruction")
    return "the plan's tokenizer" + (f" and {encoder.template_name}" if is_chat else "")


def _histogram(lengths: numpy.ndarray) -> tuple[Bar, ...]:
    longest = int(lengths.max())
    edges = [2**power for power in range(longest.bit_length() + 1)]
    below = [int((lengths <= edge).sum()) for edge in edges]
    counts = [below[0], *(there - before for before, there in pairwise(below))]
    first = next(index for index, count in enumerate(counts) if count)
    last = max(index for index, count in enumerate(counts) if count)
    return tuple(
        Bar(max_tokens=edges[index], num_examples=counts[index]) for index in range(first, last + 1)
    )
