"""What a fine-tune did and changed, as lines that the terminal, the page and the report share."""

from __future__ import annotations

from collections.abc import Iterator

from reports.units import count, duration, gib, number
from trainer.evaluation_results import Comparison
from trainer.finetune_results import FineTuneResult


def facts(result: FineTuneResult) -> dict[str, str]:
    """Return what a fine-tune did, by name."""
    return {
        "method": result.plan.method,
        "data": _data(result),
        "steps": f"{result.num_steps} of {result.total_steps}: {result.ended}",
        "learning rate": f"{result.learning_rate:g}",
        "training loss": f"{number(result.first_loss)} → {number(result.last_loss)}",
        "validation loss": _validation(result),
        "per step": duration(result.step_seconds_median),
        "tokens/s": number(result.tokens_per_second, 0),
        "peak allocated": gib(result.peak_allocated_bytes),
        "on": result.device_name,
        "training and evaluating": duration(result.seconds),
    }


def _data(result: FineTuneResult) -> str:
    data = result.data
    return f"{data.name}: {count(data.num_train)} to train, {count(data.num_validation)} held out"


def _validation(result: FineTuneResult) -> str:
    if not result.validations:
        return "nothing held out"
    best = min(result.validations, key=lambda one: one.loss)
    before = result.comparison.before.validation_loss if result.comparison else None
    first = result.validations[0].loss if before is None else before
    last = result.validations[-1].loss
    return f"{number(first)} → {number(last)}, lowest {number(best.loss)} at step {best.step}"


def notes(result: FineTuneResult) -> Iterator[str]:
    """Yield what a reader should know: examples that are not trained on whole, and the like."""
    data = result.data
    if data.num_truncated:
        yield (
            f"{count(data.num_truncated)} examples are longer than seq_len "
            f"({data.longest_example}: {count(data.longest_example_tokens)} tokens) and were cut; "
            f"{count(data.num_tokens_cut)} tokens are lost"
        )
    for reason, number_left_out in data.left_out.items():
        yield f"{count(number_left_out)} examples were left out: {reason}"
    yield from result.notes


def measures(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return what was measured before and after, by name; what never was is left out."""
    sides = comparison.before, comparison.after
    found: dict[str, tuple[list[float | None], int]] = {
        "validation loss": ([one.validation_loss for one in sides], 3),
        "validation perplexity": ([one.perplexity for one in sides], 2),
        "exact match": ([one.exact_match for one in sides], 2),
        "ROUGE-L": ([one.rouge_l for one in sides], 3),
        "perplexity of general text": ([one.general_perplexity for one in sides], 2),
    }
    return {
        name: (number(before, digits), number(after, digits))
        for name, ((before, after), digits) in found.items()
        if before is not None or after is not None
    }
