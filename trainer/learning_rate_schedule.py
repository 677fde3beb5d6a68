"""How the learning rate goes up and down over a fine-tune."""

from __future__ import annotations

import math

import torch

from estimator.plan import Schedule


def learning_rates(
    optimizer: torch.optim.Optimizer, schedule: Schedule, num_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the scheduler of a whole fine-tune.

    The rate climbs over ``warmup_ratio`` of the steps, then falls as ``lr_scheduler`` says. No
    step has a rate of zero: the schedules of transformers begin with one, and a run of few steps
    would lose much of its training.

    Args:
        optimizer: With the highest rate.
        schedule: Of the plan.
        num_steps: Of the whole fine-tune.
    """
    warmup = min(math.ceil(schedule.warmup_ratio * num_steps), num_steps - 1)

    def share(step: int) -> float:
        """Of the highest rate, in the step after ``step`` others."""
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        if schedule.lr_scheduler == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        return 1 - done if schedule.lr_scheduler == "linear" else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)
