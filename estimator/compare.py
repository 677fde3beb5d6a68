"""The same plan under several methods, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from estimator.estimate import MemoryEstimate
from estimator.gpus import Gpu
from estimator.memory import read_formula
from estimator.plan import TRAINS_WEIGHTS, FineTunePlan, FloatType

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

    Quantization follows the method: qlora takes the plan's own, or nf4; what trains the model's
    weights has none. Precision follows :func:`stored_dtypes` where the method no longer trains,
    or newly trains, the model's own weights. A key that the method cannot have is dropped.

    Raises:
        InputError: The method is none.
    """
    if method == plan.method:
        return plan
    changes: dict[str, Any] = {"method": method}
    uses_adapter = method not in TRAINS_WEIGHTS
    adapter = plan.to_document()["adapter"]
    if uses_adapter != plan.uses_adapter:
        weights, trained = stored_dtypes(method, plan.autocast_dtype, pure=plan.weights_dtype)
        changes["weights_dtype"] = weights
        if uses_adapter:
            adapter["dtype"] = trained
    keeps_quantization = method == "qlora" or plan.method != "qlora"
    if plan.is_quantized and uses_adapter and keeps_quantization:
        changes["quantization"] = plan.quantization
    if method not in ("lora", "qlora"):
        adapter["use_dora"] = False
    if method not in ("lora", "qlora", "ia3"):
        adapter["modules_to_save"] = []
    if method == "prefix_tuning":
        changes["gradient_checkpointing"] = False
    return plan.changed(**changes, adapter=adapter)


def stored_dtypes(method: str, autocast_dtype: str, *, pure: FloatType = "bf16") -> tuple[str, str]:
    """Return what the model's weights and an adapter are stored in under a method.

    Mixed precision stores what is trained in fp32, what is frozen in the 16 bits that it computes
    in. Without autocast everything is stored and computed in one type.

    Args:
        method: Decides whether the model's own weights are trained.
        autocast_dtype: The 16 bits of mixed precision, or none.
        pure: The one type where there is no autocast.
    """
    if autocast_dtype == "none":
        return pure, pure
    return "fp32" if method in TRAINS_WEIGHTS else autocast_dtype, "fp32"
