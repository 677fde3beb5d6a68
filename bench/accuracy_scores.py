"""The error of both readings against a measured step."""

from __future__ import annotations

import gc
from dataclasses import dataclass

from bench.accuracy_rows import Measured, Note
from estimator.allocator import replay
from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan
from trainer.dryrun import dry_run, trace_step


@dataclass(frozen=True, slots=True)
class Score:
    """Relative errors of both readings against one measured step; None where there is none.

    ``reserved_with_outputs_held`` is the replay's error where the step's outputs are held into
    the next forward pass, as the row's note says its loop did.
    """

    id: str
    gpu: str
    method: str
    attention: str
    source: str
    is_apart: bool
    dry_run_allocated: float
    dry_run_reserved: float | None
    is_reserved_in_band: bool | None
    reserved_with_outputs_held: float | None
    formula_allocated: float | None
    formula_refusal: str


def score(step: Measured, note: Note | None = None) -> Score:
    """Read a measured step in both ways, within this process."""
    formula, refusal = _by_formula(step)
    dry = dry_run(step.plan)
    reserved = in_band = held = None
    if step.reserved_bytes and dry.peak_reserved_bytes:
        band = dry.bands["reserved"]
        reserved = dry.peak_reserved_bytes / step.reserved_bytes - 1
        in_band = band.low_bytes <= step.reserved_bytes <= band.high_bytes
        if note and note.holds_outputs:
            held = _reserved_with_outputs_held(step.plan) / step.reserved_bytes - 1
    gc.collect()  # the model's fake tensors refer to one another
    return Score(
        id=step.id,
        gpu=step.plan.gpu_spec.name,
        method=step.plan.method,
        attention=step.plan.attention,
        source=step.source,
        is_apart=bool(note and note.is_apart),
        dry_run_allocated=dry.peak_allocated_bytes / step.allocated_bytes - 1,
        dry_run_reserved=reserved,
        is_reserved_in_band=in_band,
        reserved_with_outputs_held=held,
        formula_allocated=formula,
        formula_refusal=refusal,
    )


def _by_formula(step: Measured) -> tuple[float | None, str]:
    try:
        return read_formula(step.plan).peak_allocated_bytes / step.allocated_bytes - 1, ""
    except NoFormula as no:
        return None, no.reason


def _reserved_with_outputs_held(plan: FineTunePlan) -> int:
    trace = trace_step(plan, whole=True).trace
    return replay(trace.with_outputs_held()).peak_reserved_bytes
