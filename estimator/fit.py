"""What would make a plan that does not fit fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from estimator.compare import under_method
from estimator.estimate import Device, MemoryEstimate
from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan
from estimator.problems import InputError

MAX_CHANGES = 3
SMALLEST_DROP = 0.02
"""The part of the peak that a change must save to be worth its name."""


@dataclass(frozen=True, slots=True)
class PlanChange:
    """A change to a plan, and the peak that the formula then gives.

    ``override`` is what is typed after ``--set``; of several keys it holds the further ``--set``.
    """

    override: str
    peak_allocated_bytes: int


def changes_that_fit(
    plan: FineTunePlan, capacity_bytes: int, *, device: Device = "cuda"
) -> list[PlanChange]:
    """Return up to three changes that bring a plan under a capacity, and keep it there.

    They come in the order of how little they disturb: what leaves the training itself as it is
    first, then a smaller micro-batch (made up for by accumulation), then another method, then
    shorter examples. A change for which the formula does not hold is left out, and so is one that
    lowers the peak by less than :data:`SMALLEST_DROP`.

    Args:
        plan: What does not fit.
        capacity_bytes: The memory there is. On a GPU the allocator's cache and the CUDA context
            must fit it too, as far as the estimate assumes them; on a CPU the peak.
        device: Where the plan runs.
    """
    now = _read(plan, device)
    found = []
    for changes in _candidates(plan):
        try:
            estimate = _read(plan.changed(**changes), device)
        except InputError:
            continue
        if estimate is None:
            continue
        peak = estimate.peak_allocated_bytes
        need = estimate.comfortable_need_bytes if device == "cuda" else peak
        drops = now is None or peak <= (1 - SMALLEST_DROP) * now.peak_allocated_bytes
        if need <= capacity_bytes and drops:
            found.append(PlanChange(_override(changes), peak))
        if len(found) == MAX_CHANGES:
            break
    return found


def _read(plan: FineTunePlan, device: Device) -> MemoryEstimate | None:
    try:
        return read_formula(plan, device=device)
    except NoFormula:
        return None


def _override(changes: dict[str, Any]) -> str:
    """Return changes as they are typed after ``--set``."""
    return " --set ".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in changes.items()
    )


def _candidates(plan: FineTunePlan) -> Iterator[dict[str, Any]]:
    if not plan.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    if plan.keep_outputs:
        yield {"keep_outputs": False}
    if plan.optimizer.startswith("adamw_torch"):
        yield {"optimizer": "adamw_8bit"}
    for size in _smaller_batches(plan.micro_batch_size):
        times = plan.micro_batch_size // size
        steps = plan.gradient_accumulation_steps * times
        yield {"micro_batch_size": size, "gradient_accumulation_steps": steps}
    if not plan.uses_adapter:
        yield _to_method(plan, "lora")
    if plan.method != "qlora":
        yield _to_method(plan, "qlora")
    length = plan.seq_len // 2
    while length >= 128:
        yield {"seq_len": length}
        length //= 2


def _smaller_batches(size: int) -> list[int]:
    """Return the largest proper divisor of a micro-batch, and 1: the global batch stays."""
    divisors = [one for one in range(size // 2, 0, -1) if size % one == 0]
    return divisors[:1] if divisors[:1] == [1] else divisors[:1] + divisors[-1:]


def _to_method(plan: FineTunePlan, method: str) -> dict[str, Any]:
    """Return what changes with the method: its name, and what the frozen weights are stored in."""
    weights_dtype = under_method(plan, method).weights_dtype
    same = weights_dtype == plan.weights_dtype
    return {"method": method} | ({} if same else {"weights_dtype": weights_dtype})
