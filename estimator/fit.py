"""What would make a plan that does not fit fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan
from estimator.problems import InputError

MAX_CHANGES = 3


@dataclass(frozen=True, slots=True)
class PlanChange:
    """One change to a plan, as ``--set`` takes it, and the peak that the formula then gives."""

    override: str
    peak_allocated_bytes: int


def changes_that_fit(plan: FineTunePlan, capacity_bytes: int) -> list[PlanChange]:
    """Return up to three single changes that bring a plan under a capacity.

    They come in the order of how little they disturb: what leaves the training itself as it is
    first, then a smaller micro-batch (made up for by accumulation), then another method, then
    shorter examples. A change for which the formula does not hold is left out.

    Args:
        plan: What does not fit.
        capacity_bytes: What allocated memory may come to.
    """
    found = []
    for key, value in _candidates(plan):
        try:
            peak = read_formula(plan.changed(**{key: value})).peak_allocated_bytes
        except (InputError, NoFormula):
            continue
        if peak <= capacity_bytes:
            text = str(value).lower() if isinstance(value, bool) else value
            found.append(PlanChange(f"{key}={text}", peak))
    return found[:MAX_CHANGES]


def _candidates(plan: FineTunePlan) -> Iterator[tuple[str, Any]]:
    if not plan.gradient_checkpointing:
        yield "gradient_checkpointing", True
    if plan.keep_outputs:
        yield "keep_outputs", False
    if plan.optimizer.startswith("adamw_torch"):
        yield "optimizer", "adamw_8bit"
    if plan.micro_batch_size > 1:
        yield "micro_batch_size", max(1, plan.micro_batch_size // 2)
    if plan.micro_batch_size > 2:
        yield "micro_batch_size", 1
    if plan.method in ("full", "last_layers", "bitfit"):
        yield "method", "lora"
    if plan.method != "qlora":
        yield "method", "qlora"
    length = plan.seq_len // 2
    while length >= 128:
        yield "seq_len", length
        length //= 2
