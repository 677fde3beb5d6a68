"""What terminal, pages and HTML say in the same words: names, and sentences about a probe."""

from __future__ import annotations

from estimator.estimate import MemoryEstimate
from estimator.plan import FineTunePlan
from reports.units import gib
from trainer.machine import LocalGpu
from trainer.results import OutOfMemory

METHOD_NAMES = {"full": "Full", "lora": "LoRA", "qlora": "QLoRA"}
_BASIS_NAMES = {"formula": "formula", "dry-run": "dry run", "measured": "measured"}

TRAINING_WORDS = {"same": "same", "nearly": "nearly same", "different": "different"}
"""Whether a change leaves what is learnt as it is."""


def method_name(method: str) -> str:
    """Return a method as people write it."""
    return METHOD_NAMES.get(method, method.replace("_", " "))


def basis_name(estimate: MemoryEstimate) -> str:
    """Return where an estimate's numbers come from: formula, dry run or measured."""
    return _BASIS_NAMES[estimate.basis]


def step_size(plan: FineTunePlan) -> str:
    """Return what a probe's step consists of (``2 of 16 micro-batches``): its time is of that."""
    planned, taken = plan.gradient_accumulation_steps, plan.micro_steps_taken
    if planned > taken:
        return f"{taken} of {planned} micro-batches"
    return "1 micro-batch" if planned == 1 else f"{planned} micro-batches"


def makes_it_fit(num: int) -> str:
    """Return what leads a list of changes of which each makes a plan fit by itself."""
    which = "this change" if num == 1 else "any one of these changes"
    return f"By the estimate, {which} makes it fit:"


def gpu_memory(gpu: LocalGpu) -> str:
    """Return how much memory a GPU has, and how much of it is free."""
    if gpu.memory_bytes is None:
        return "memory not known"
    return f"{gib(gpu.memory_bytes)}, {gib(gpu.free_bytes)} free"


def what_was_lacking(found: OutOfMemory) -> str:
    """Return where a device was too small, and by what, as one sentence."""
    sentence = f"Out of memory in the {found.phase} phase"
    if found.requested_bytes is not None:
        sentence += f": asked for {gib(found.requested_bytes)} more"
    if found.capacity_bytes is None:
        return f"{sentence}."
    capacity = gib(found.capacity_bytes)
    if found.allocated_bytes is None:
        return f"{sentence}, where there are {capacity} in all."
    return f"{sentence}, with {gib(found.allocated_bytes)} of {capacity} in use."
