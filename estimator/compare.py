"""The same plan under several methods, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from estimator.estimate import MemoryEstimate
from estimator.gpus import Gpu
from estimator.memory import read_formula
from estimator.plan import FineTunePlan, Method

METHODS: tuple[Method, ...] = ("full", "lora", "qlora")


def compare_methods(
    plan: FineTunePlan, methods: Sequence[Method] = METHODS, gpus: Sequence[Gpu] = ()
) -> list[MemoryEstimate]:
    """Return the formula's reading of ``plan`` under each method; all else stays as it is.

    Args:
        plan: What is compared; its own method need not be among ``methods``. Quantization
            follows the method: qlora takes the plan's own, or nf4.
        methods: In the order in which they come back.
        gpus: What to judge them against, in place of the plan's GPU and the common ones.

    Raises:
        NoFormula: The formula does not hold for one of them.
        InputError: The plan is not possible with one of the methods, or its model is not found.
    """
    estimates = [read_formula(_under(plan, method)) for method in methods]
    return [one.judged(tuple(gpus)) for one in estimates] if gpus else estimates


def _under(plan: FineTunePlan, method: Method) -> FineTunePlan:
    if method == plan.method:
        return plan
    return plan.changed(method=method)
