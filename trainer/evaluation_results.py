"""What an evaluation found, and whether a fine-tune helped: plain records, read without torch."""

from __future__ import annotations

from typing import Literal

from estimator.records import Record

Verdict = Literal["learned", "overfitted", "forgot", "worse", "no_change"]


class Sample(Record):
    """One reference beside what the model made of its prompt, and how near that came.

    Attributes:
        output_was_cut: Whether the model was still writing when its allowance of tokens ended.
        exact: Equal but for case, punctuation and white space.
        exact_strict: Equal sign by sign, white space at the ends apart.
        rouge_l: 0 to 1.
    """

    prompt: str
    reference: str
    output: str
    output_was_cut: bool = False
    exact: bool
    exact_strict: bool
    rouge_l: float


class Piece(Record):
    """A short run of neighbouring tokens, and the sum of their losses in nats."""

    loss: float
    num_tokens: int


class Evaluation(Record):
    """What a model can do at one moment. What was not there to be measured is None.

    Attributes:
        validation_loss: Mean loss of the learned tokens of the validation rows, in nats.
        exact_match: Share of the references met, but for case, punctuation and white space.
        exact_match_strict: Share of the references met sign by sign.
        rouge_l: Mean over the references, 0 to 1.
        num_references: References that were answered.
        general_loss: Mean loss on the bundled general text, in nats.
        is_broken: Whether the model gave losses that are no finite numbers.
        seed: What the random numbers were seeded with.
    """

    validation_loss: float | None = None
    perplexity: float | None = None
    num_validation_tokens: int = 0
    validation_pieces: tuple[Piece, ...] = ()
    exact_match: float | None = None
    exact_match_strict: float | None = None
    rouge_l: float | None = None
    num_references: int = 0
    samples: tuple[Sample, ...] = ()
    general_loss: float | None = None
    general_perplexity: float | None = None
    num_general_tokens: int = 0
    general_pieces: tuple[Piece, ...] = ()
    is_broken: bool = False
    seconds: float
    seed: int


class HistoryPoint(Record):
    """A moment of a fine-tune.

    Attributes:
        training_loss: Of the step, or the mean since the last point; None where not taken.
        validation_loss: Over the same rows and weighted as :class:`Evaluation` has it; None where
            not taken.
    """

    step: int
    training_loss: float | None = None
    validation_loss: float | None = None


class Change(Record):
    """By how much a loss changed, in nats per token.

    Attributes:
        low: The lower end of the interval that noise leaves open; None where the pieces are too
            few to tell.
        high: Its upper end.
    """

    mean: float
    low: float | None
    high: float | None
    num_pieces: int

    @property
    def is_fall(self) -> bool:
        """Whether the loss fell by more than noise."""
        return self.high is not None and self.high < 0

    @property
    def is_rise(self) -> bool:
        """Whether the loss rose by more than noise."""
        return self.low is not None and self.low > 0


class Comparison(Record):
    """A model before and after a fine-tune, and in plain words whether that helped.

    Attributes:
        verdict: None where nothing was there to judge by.
        sentence: The verdict with its figures.
        validation_change: None where the two evaluations cannot be paired.
        general_change: The same of the general text.
        warnings: What a reader should know before trusting the verdict.
    """

    before: Evaluation
    after: Evaluation
    verdict: Verdict | None
    sentence: str
    validation_change: Change | None
    general_change: Change | None
    warnings: tuple[str, ...] = ()
