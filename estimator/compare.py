"""The same plan under several methods, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from estimator.estimate import MemoryEstimate
from estimator.gpus import Gpu
from estimator.memory import read_formula
from estimator.plan import FineTunePlan

METHODS: tuple[str, ...] = ("full", "lora", "qlora")


def compare_methods(
    plan: FineTunePlan, methods: Sequence[str] = METHODS, gpus: Sequence[Gpu] = ()
) -> list[MemoryEstimate]:
    """Return the formula's reading of ``plan`` under each method.

    Args:
        plan: What is compared; its own method need not be among ``methods``. What changes with
            the method is told at :func:`under_method`.
        methods: In the order in which they come back.
        gpus: What to judge them against, in place of the plan's GPU and the common ones. One on
            which the formula does not hold is left out.

    Raises:
        NoFormula: The formula does not hold for one of them.
        InputError: The plan is not possible with one of the methods, or its model is not found.
    """
    return [read_formula(under_method(plan, method), gpus=gpus) for method in methods]


def under_method(plan: FineTunePlan, method: str) -> FineTunePlan:
    """Return the plan as people run it with another method.

    Quantization follows the method: qlora takes the plan's own, or nf4. Mixed precision means
    that what is trained is stored in fp32 and computed in 16 bits, so weights that an adapter
    freezes take the 16-bit format.

    Raises:
        InputError: The plan is not possible with this method.
    """
    if method == plan.method:
        return plan
    changed = plan.changed(method=method)
    mixed = plan.weights_dtype == "fp32" and plan.autocast_dtype != "none"
    if mixed and changed.uses_adapter and not plan.uses_adapter:
        return changed.changed(weights_dtype=plan.autocast_dtype)
    return changed
