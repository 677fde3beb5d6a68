"""How many optimizer steps a whole fine-tune takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from estimator.plan import FineTunePlan


@dataclass(frozen=True, slots=True)
class Examples:
    """What is trained on.

    Attributes:
        num_examples: All of them, those held out for validation included.
        tokens_per_example: Their mean length, where it is known.
        num_rows: How many rows an epoch trains on, where they were counted.
    """

    num_examples: int
    tokens_per_example: float | None
    num_rows: int | None = None


def count_rows(plan: FineTunePlan, examples: Examples) -> int:
    """Return the rows that an epoch trains on.

    Without padding, examples are packed into rows of ``seq_len`` tokens; of examples of unknown
    length each takes a row.
    """
    trained = examples.num_examples * (1 - plan.schedule.validation_fraction)
    rows = round(trained)
    if examples.num_rows is not None:
        rows = examples.num_rows
    elif not plan.padded and examples.tokens_per_example is not None:
        rows = ceil(trained * examples.tokens_per_example / plan.seq_len)
    return max(1, rows)


def count_micro_batches(plan: FineTunePlan, examples: Examples) -> int:
    """Return the micro-batches of an epoch; the last one may be smaller than the others."""
    size = plan.micro_batch_size * plan.parallel.data_parallel_size
    return ceil(count_rows(plan, examples) / size)


def count_steps(plan: FineTunePlan, examples: Examples) -> int:
    """Return the optimizer steps of a whole fine-tune, as Hugging Face Trainer counts them.

    Each epoch's last step may be smaller than the others.
    """
    micro_batches = count_micro_batches(plan, examples)
    return ceil(ceil(micro_batches / plan.gradient_accumulation_steps) * plan.epochs)
