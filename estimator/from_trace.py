"""From a step's trace to its estimate: the allocator's replay, the peaks, the bands."""

from __future__ import annotations

from typing import Any

from estimator.allocator import replay, smallest_capacity
from estimator.bands import (
    ALLOCATED_SPREAD,
    OTHER_VERSIONS,
    SHORTER,
    WITH_PADDING,
    around,
    shifted,
)
from estimator.estimate import (
    COMPONENTS,
    PHASES,
    Band,
    Component,
    Device,
    Level,
    MemoryEstimate,
    ParameterCounts,
    Phase,
    Timeline,
)
from estimator.gpu_facts import context_bytes
from estimator.plan import FineTunePlan
from estimator.trace import Peak, Trace

RESERVED_SPREAD = 0.08
"""How far the replayed cache may be off: nine published steps in ten were within 6 %."""

TIMELINE_POINTS = 240


def estimate_from_trace(
    plan: FineTunePlan, trace: Trace, counts: ParameterCounts, device: Device
) -> MemoryEstimate:
    """Return what a trace says about a plan; assumptions, software and verdicts are the caller's.

    Args:
        plan: What was traced.
        trace: Two of its steps.
        counts: The model's parameters.
        device: On "cuda" the trace is run through the caching allocator.
    """
    if device == "cpu":
        return _on_cpu(_estimate(plan, trace, counts, device))
    expandable = plan.expandable_segments
    unlimited = replay(trace, expandable=expandable)
    reserved = unlimited.peak_reserved_bytes
    smallest = smallest_capacity(trace, unlimited, expandable=expandable)
    context = context_bytes(plan.gpu_spec)
    held = reserved
    if trace.outputs:
        held = replay(trace.with_outputs_held(), expandable=expandable).peak_reserved_bytes
    blocks = trace.with_sizes(unlimited.block_bytes)
    estimate = _estimate(plan, blocks, counts, device)
    allocated = around(estimate.peak_allocated_bytes, ALLOCATED_SPREAD)
    least = min(smallest, round(reserved * (1 - RESERVED_SPREAD)))
    bands: dict[Level, Band] = {
        "allocated": allocated,
        "reserved": Band(
            low_bytes=max(least, allocated.low_bytes),  # what is allocated is reserved
            likely_bytes=reserved,
            high_bytes=round(max(reserved, held) * (1 + RESERVED_SPREAD)),
        ),
    }
    found: dict[str, Any] = {
        "peak_reserved_bytes": reserved,
        "smallest_fit_bytes": smallest,
        "context_bytes": context,
    }
    if context is not None:
        found["total_bytes"] = reserved + context
        bands["total"] = shifted(bands["reserved"], context)
    moved_by = tuple(_moved_by(plan, held > reserved))
    return estimate.model_copy(update=found | {"bands": bands, "moved_by": moved_by})


def _moved_by(plan: FineTunePlan, is_held: bool) -> list[str]:
    reasons = [
        "Lower: examples shorter than seq_len, and a GPU so full that the allocator gives its "
        "cache back.",
        "Either way: where the allocator puts blocks of one size, and other versions of the "
        "libraries.",
    ]
    if is_held:
        reasons.append("Higher: a loop that holds the outputs of one step into the next.")
    if not plan.padded:
        reasons.append(WITH_PADDING)
    return reasons


def _on_cpu(estimate: MemoryEstimate) -> MemoryEstimate:
    """Add the one band there is on a CPU: it has no allocator that keeps a cache."""
    bands: dict[Level, Band] = {
        "allocated": around(estimate.peak_allocated_bytes, ALLOCATED_SPREAD)
    }
    reasons = [SHORTER, OTHER_VERSIONS]
    if not estimate.plan.padded:
        reasons.append(WITH_PADDING)
    return estimate.model_copy(update={"bands": bands, "moved_by": tuple(reasons)})


def _estimate(
    plan: FineTunePlan, trace: Trace, counts: ParameterCounts, device: Device
) -> MemoryEstimate:
    peak = trace.peak()
    return MemoryEstimate(
        basis="dry-run",
        plan=plan,
        parameters=counts,
        components_bytes=components_at(peak),
        phases_bytes=phases_of(trace),
        peak_phase=peak.phase,
        peak_allocated_bytes=peak.size_bytes,
        device=device,
        seconds=0.0,
        timeline=timeline_of(trace),
    )


def components_at(peak: Peak) -> dict[Component, int | None]:
    """Return every component's bytes at the peak, zero where there is none."""
    return {component: peak.components_bytes.get(component, 0) for component in COMPONENTS}


def phases_of(trace: Trace) -> dict[Phase, int | None]:
    """Return the peak within each phase, None for a phase the trace does not show."""
    peaks = trace.phase_peaks()
    return {phase: peaks.get(phase) for phase in PHASES}


def timeline_of(trace: Trace) -> Timeline:
    """Return the last step's memory by component, at the fullest moment of each short while."""
    first = _last_step(trace)
    length = max(len(trace.events) - first, 1)
    live: dict[Component, int] = dict.fromkeys(COMPONENTS, 0)
    total = 0
    phases = dict(trace.marks)
    phase: Phase = "load"
    at: list[float] = []
    during: list[Phase] = []
    series: dict[Component, list[int]] = {component: [] for component in COMPONENTS}
    fullest = begun = -1
    for index, event in enumerate(trace.events):
        phase = phases.get(index, phase)
        change = trace.change(event)
        if change:
            live[trace.components[event if event >= 0 else ~event]] += change
            total += change
        if index < first:
            continue
        while_ = (index - first) * TIMELINE_POINTS // length
        if while_ != begun or phase != during[-1]:
            begun, fullest = while_, -1
            at.append((index - first) / length)
            during.append(phase)
            for values in series.values():
                values.append(0)
        if total > fullest:
            fullest = total
            for component, values in series.items():
                values[-1] = live[component]
    return Timeline(
        at=tuple(at),
        phase=tuple(during),
        components_bytes={name: tuple(values) for name, values in series.items()},
    )


def _last_step(trace: Trace) -> int:
    """Return the index of the last step's first event: after the first step's optimizer phase."""
    ends = [index for index, phase in trace.marks if phase == "optimizer"]
    starts = [index for index, phase in trace.marks if phase == "forward"]
    return next((at for at in starts if ends and at >= ends[0]), 0)
