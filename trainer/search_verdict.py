"""What a search's figures say, and how sure that is, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from trainer.evaluation_results import Evaluation
from trainer.paired_change import CONFIDENCE, paired_change
from trainer.search_results import Dimension, SearchResult, Trial
from trainer.search_space import DECADES, is_own, own_parameters

FEW_EXAMPLES = 20
"""Held-out examples below which another set of them might well choose another trial."""

NEAR_EDGE = 0.1
"""Of a range, in the logarithm: a best value this near its end suggests that more lies beyond."""


def sentence(result: SearchResult, evaluations: dict[int, Evaluation]) -> str:
    """Return what a search brought, and how sure that is.

    Args:
        result: What it found, with ``best``.
        evaluations: What is known of the models of completed trials, by number.
    """
    best = result.best_trial()
    if best is None:
        return _nothing(result)
    completed = [one for one in result.ranked() if one.state == "completed"]
    return " ".join(_sentences(result, best, completed, evaluations))


def _nothing(result: SearchResult) -> str:
    reasons = [f"trial {one.number}: {one.reason}" for one in result.trials if one.reason]
    said = f" ({reasons[0]})" if reasons else ""
    return f"No trial was completed{said}."


def _sentences(
    result: SearchResult,
    best: Trial,
    completed: Sequence[Trial],
    evaluations: dict[int, Evaluation],
) -> Iterator[str]:
    yield f"Trial {best.number} is best, with a validation loss of {_loss(best)}."
    yield _against_own(result, best, completed)
    if len(completed) > 1:
        yield _against_next(best, completed[1], evaluations)
        few = completed[: min(3, len(completed))]
        if len(few) == 3:
            spread = (few[-1].validation_loss or 0) - (few[0].validation_loss or 0)
            yield f"The best three lie within {spread:.2g}."
    else:
        yield "No other trial was completed, so there is nothing to compare it with."
    if result.num_validation is not None and result.num_validation < FEW_EXAMPLES:
        yield (
            f"Only {result.num_validation} examples are held out: others might well choose another."
        )
    yield from _edges(result.searched, best)


def _against_own(result: SearchResult, best: Trial, completed: Sequence[Trial]) -> str:
    own = own_parameters(result.plan, result.searched)
    name = "The plan's own settings"
    if not is_own(result.plan, own):
        name = "The settings searched that are nearest the plan's own"
    if best.parameters == own:
        return f"{name} are the best."
    given = next((one for one in completed if one.parameters == own), None)
    if given is None:
        return f"{name} were not completed."
    return f"{name} have {_loss(given)} (trial {given.number})."


def _against_next(best: Trial, other: Trial, evaluations: dict[int, Evaluation]) -> str:
    said = f"The next is trial {other.number}, with {_loss(other)}"
    change = None
    if best.number in evaluations and other.number in evaluations:
        ours, theirs = evaluations[best.number], evaluations[other.number]
        change = paired_change(ours.validation_pieces, theirs.validation_pieces)
    if change is None:
        return f"{said}; whether that is more than noise is not known."
    if change.low is None or change.high is None:
        return f"{said}; the held-out text is too short to tell such a difference from noise."
    interval = f"{change.low:+.3f} to {change.high:+.3f} with {CONFIDENCE:.0%} confidence"
    if change.is_rise:
        return f"{said}: worse by more than noise on these examples ({interval})."
    return f"{said}: the difference may be noise ({interval}), so either will do."


def _edges(searched: Sequence[Dimension], best: Trial) -> Iterator[str]:
    rate = next((one for one in searched if one.key == "learning_rate" and not one.values), None)
    if rate is None:
        return
    value = best.parameters["learning_rate"]
    at = math.log(value / rate.low) / math.log(rate.high / rate.low)
    if NEAR_EDGE < at < 1 - NEAR_EDGE:
        return
    low, high = (value, value * DECADES) if at > 0.5 else (value / DECADES, value)
    side = "upper" if at > 0.5 else "lower"
    yield (
        f"Its learning rate lies at the {side} end of what was searched: look further with "
        f"--search learning_rate={low:.2g}..{high:.2g}."
    )


def _loss(trial: Trial) -> str:
    loss = trial.validation_loss
    return "an unknown loss" if loss is None else f"{loss:.4g}"
