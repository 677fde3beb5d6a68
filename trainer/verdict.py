"""Did a fine-tune help? The rules, their thresholds and why they are what they are.

docs/evaluation.md tells the same to a user.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.evaluation_results import (
    Change,
    Comparison,
    Evaluation,
    HistoryPoint,
    Verdict,
)
from trainer.paired_change import CONFIDENCE, paired_change

CLEAR_CHANGE_NATS = math.log(1.01)
"""A change of perplexity below 1 % is called none, however sure it is: nobody would notice it."""

CLEAR_FORGETTING_NATS = math.log(1.10)
"""General perplexity must rise by 10 %: about what lies between Llama 2 13B and 7B on WikiText-2
(4.88 and 5.47, AWQ, arXiv:2306.00978), so about half a model's size is lost."""

CLEAR_OVERFITTING_NATS = math.log(1.05)
"""How far the loss must end above its lowest: 5 % of perplexity. The lowest of several noisy
evaluations is too low by itself, so 1 % would not do."""

FEW_EXAMPLES = 20
"""Below this many references one more or less right moves a share by over 5 points."""

STRANGE_PERPLEXITY = 1000
"""A model this surprised by everyday English did not know it (GPT-2's smallest has some 30 on
WikiText-2), so there is little for it to forget."""


@dataclass(frozen=True, slots=True)
class _Findings:
    validation: Change | None
    general: Change | None
    above_best: float | None  # nats, only where it is clear and the training loss fell

    @property
    def learned(self) -> bool:
        """Whether validation loss fell clearly."""
        change = self.validation
        return change is not None and change.is_fall and -change.mean >= CLEAR_CHANGE_NATS

    @property
    def worse(self) -> bool:
        """Whether validation loss rose clearly."""
        change = self.validation
        return change is not None and change.is_rise and change.mean >= CLEAR_CHANGE_NATS

    @property
    def forgot(self) -> bool:
        """Whether the loss on general text rose clearly, and by enough to matter."""
        change = self.general
        return change is not None and change.is_rise and change.mean >= CLEAR_FORGETTING_NATS


def compare(
    before: Evaluation, after: Evaluation, history: Sequence[HistoryPoint] = ()
) -> Comparison:
    """Return what a fine-tune changed, and a verdict.

    The first that holds is the verdict: the losses are no numbers any more (worse); general text
    got clearly worse (forgot); validation loss ended clearly above its lowest while training loss
    fell (overfitted); validation loss fell clearly (learned), or rose clearly (worse); else
    no_change. The sentence tells the others that hold as well.

    Args:
        before: The model as it was, over the same rows, text and references.
        after: The model that is kept.
        history: The fine-tune's losses in order, to tell overfitting.
    """
    validation = paired_change(before.validation_pieces, after.validation_pieces)
    general = paired_change(before.general_pieces, after.general_pieces)
    above_best = _above_best(before, after, history, validation)
    found = _Findings(validation, general, above_best)
    verdict = _verdict(found, after)
    sentence = " ".join(_sentences(verdict, found, before, after))
    return Comparison(
        before=before,
        after=after,
        verdict=verdict,
        sentence=sentence,
        validation_change=validation,
        general_change=general,
        warnings=tuple(_warnings(verdict, found, before, after)),
    )


def _above_best(
    before: Evaluation,
    after: Evaluation,
    history: Sequence[HistoryPoint],
    change: Change | None,
) -> float | None:
    """How far validation loss ended above its lowest, where that is overfitting."""
    last = after.validation_loss
    if last is None or change is None or change.low is None or not _training_loss_fell(history):
        return None
    losses = [point.validation_loss for point in history] + [before.validation_loss]
    above = last - min((loss for loss in losses if loss is not None), default=last)
    # The lowest loss was seen in between, without its pieces. It lies nearer to the last one than
    # the first does, so the noise of first to last is a bound for the noise of this.
    return above if above >= max(CLEAR_OVERFITTING_NATS, _half_width(change)) else None


def _half_width(change: Change | None) -> float:
    """How far noise may have moved a change; none where it is not known."""
    if change is None or change.low is None or change.high is None:
        return 0.0
    return (change.high - change.low) / 2


def _training_loss_fell(history: Sequence[HistoryPoint]) -> bool:
    """Whether the last quarter's training loss is below the first quarter's."""
    losses = [point.training_loss for point in history if point.training_loss is not None]
    quarter = max(1, len(losses) // 4)
    return len(losses) >= 2 and sum(losses[-quarter:]) < sum(losses[:quarter])


def _verdict(found: _Findings, after: Evaluation) -> Verdict | None:
    if after.is_broken:
        return "worse"
    if found.forgot:
        return "forgot"
    if found.above_best is not None:
        return "overfitted"
    if found.learned:
        return "learned"
    if found.worse:
        return "worse"
    return None if found.validation is None else "no_change"


_OPENINGS: dict[Verdict | None, str] = {
    "learned": "It learned.",
    "overfitted": "It overfitted.",
    "forgot": "It forgot.",
    "worse": "It got worse.",
    "no_change": "It did not change by more than noise.",
    None: "Whether it learned cannot be said.",
}


def _sentences(
    verdict: Verdict | None, found: _Findings, before: Evaluation, after: Evaluation
) -> Iterator[str]:
    yield _OPENINGS[verdict]
    if verdict == "forgot" and found.learned:
        yield "It learned as well."
    if verdict == "forgot" and found.above_best is not None:
        yield "It overfitted as well."
    if after.is_broken:
        yield "The model's losses are no numbers any more: the training broke it."
    if (change := found.validation) is not None:
        yield _loss_sentence("Validation loss", change, before.validation_loss, after)
    elif not after.is_broken:
        yield "There is no validation loss before and after."
    if found.above_best is not None:
        yield (
            f"It ended {found.above_best:.3f} above its lowest (perplexity "
            f"{_percent(found.above_best)}) while training loss fell."
        )
    if (change := found.general) is not None:
        yield _general_sentence(change, before, after)
    if before.rouge_l is not None and after.rouge_l is not None:
        yield (
            f"Of {after.num_references} references {_count(after)} are met exactly "
            f"({_count(before)} before), and ROUGE-L is {after.rouge_l:.2f} "
            f"({before.rouge_l:.2f} before)."
        )


def _loss_sentence(name: str, change: Change, start: float | None, after: Evaluation) -> str:
    end = after.validation_loss
    if start is None or end is None:
        return ""
    said = (
        f"{name} went from {start:.3f} to {end:.3f} (perplexity {math.exp(start):.4g} to "
        f"{math.exp(end):.4g}) over {after.num_validation_tokens:,} tokens"
    )
    if change.low is None:
        return f"{said}, too few to tell a change from noise."
    return (
        f"{said}: a change of {change.mean:+.3f}, between {change.low:+.3f} and "
        f"{change.high:+.3f} with {CONFIDENCE:.0%} confidence."
    )


def _general_sentence(change: Change, before: Evaluation, after: Evaluation) -> str:
    verb = "is as it was"
    if abs(change.mean) >= CLEAR_CHANGE_NATS and (change.is_rise or change.is_fall):
        verb = "became harder for it" if change.is_rise else "became easier for it"
    return (
        f"General text {verb}: its perplexity went from {before.general_perplexity:.4g} to "
        f"{after.general_perplexity:.4g} ({_percent(change.mean)})."
    )


def _percent(nats: float) -> str:
    return f"{math.expm1(nats):+.1%}"


def _count(evaluation: Evaluation) -> int:
    return sum(sample.exact for sample in evaluation.samples)


def _warnings(
    verdict: Verdict | None, found: _Findings, before: Evaluation, after: Evaluation
) -> Iterator[str]:
    change = found.validation
    if change is None and not after.is_broken:
        yield "Hold out validation examples to learn whether it learned."
    elif change is not None and change.low is None:
        yield (
            f"{after.num_validation_tokens:,} validation tokens are too few to tell anything from "
            "noise: hold out more examples."
        )
    elif verdict == "no_change" and (unseen := _half_width(change)) > CLEAR_OVERFITTING_NATS:
        yield (
            f"With {after.num_validation_tokens:,} validation tokens a change of perplexity below "
            f"{math.expm1(unseen):.0%} would not show: hold out more examples."
        )
    if 0 < after.num_references < FEW_EXAMPLES:
        yield f"{after.num_references} references are few: one more or less right moves the shares."
    cut = sum(sample.output_was_cut for sample in after.samples)
    if cut:
        yield f"{cut} of {len(after.samples)} answers were cut off at their allowance of tokens."
    if before.general_perplexity is not None and before.general_perplexity > STRANGE_PERPLEXITY:
        yield (
            f"The model hardly knew everyday English before (perplexity "
            f"{before.general_perplexity:,.0f}): the forgetting check says little."
        )
