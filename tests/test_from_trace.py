"""From a trace to an estimate: what the bands hold, and what the timeline shows."""

from __future__ import annotations

import pytest

from estimator.estimate import MemoryEstimate, ParameterCounts
from estimator.from_trace import TIMELINE_POINTS, estimate_from_trace
from estimator.plan import FineTunePlan
from estimator.trace import Trace

MIB = 2**20


def two_steps(num_layers: int, *, first_larger: bool = False) -> Trace:
    """Two steps of a hand-made model; the first makes the optimizer's states."""
    trace = Trace()
    trace.mark("load")
    trace.born(20 * MIB, "weights")
    for step in range(2):
        trace.mark("forward")
        activations = [trace.born(3 * MIB, "activations") for _ in range(num_layers)]
        logits = trace.born(40 * MIB, "logits")
        trace.outputs.add(logits)
        trace.mark("backward")
        if first_larger and step == 0:
            trace.died(trace.born(900 * MIB))
        gradients = []
        for activation in reversed(activations):
            gradients.append(trace.born(2 * MIB, "gradients"))
            trace.died(trace.born(5 * MIB))
            trace.died(activation)
        trace.died(logits)
        trace.mark("optimizer")
        if step == 0:
            for _ in gradients:
                trace.born(4 * MIB, "optimizer_states")
        for gradient in gradients:
            trace.died(gradient)
    return trace


def read(trace: Trace, plan: FineTunePlan) -> MemoryEstimate:
    return estimate_from_trace(plan, trace, ParameterCounts(total=1, trainable=1), "cuda")


def test_the_bands_hold_what_is_likely_and_what_was_replayed(tiny_plan: FineTunePlan) -> None:
    estimate = read(two_steps(30), tiny_plan.changed(gpu="RTX 4090"))
    for band in estimate.bands.values():
        assert band.low_bytes <= band.likely_bytes <= band.high_bytes
    likely = {level: band.likely_bytes for level, band in estimate.bands.items()}
    assert likely == {
        "allocated": estimate.peak_allocated_bytes,
        "reserved": estimate.peak_reserved_bytes,
        "total": estimate.total_bytes,
    }
    assert estimate.smallest_fit_bytes is not None
    assert estimate.bands["reserved"].low_bytes <= estimate.smallest_fit_bytes


def test_the_reserved_band_reaches_to_a_loop_that_holds_its_outputs(
    tiny_plan: FineTunePlan,
) -> None:
    trace = two_steps(2)
    held = read(trace, tiny_plan)
    trace.outputs.clear()
    without = read(trace, tiny_plan)
    assert held.peak_reserved_bytes == without.peak_reserved_bytes
    assert held.bands["reserved"].high_bytes > without.bands["reserved"].high_bytes
    assert held.bands["reserved"].low_bytes == without.bands["reserved"].low_bytes
    says = "a loop that holds the outputs"
    assert says in " ".join(held.moved_by)
    assert says not in " ".join(without.moved_by)


@pytest.mark.parametrize("num_layers", [2, 30, 1000])
def test_the_timeline_meets_the_peak_of_the_last_step(
    tiny_plan: FineTunePlan, num_layers: int
) -> None:
    estimate = read(two_steps(num_layers), tiny_plan)
    timeline = estimate.timeline
    assert timeline is not None
    totals = timeline.total_bytes()
    assert max(totals) == estimate.peak_allocated_bytes
    fullest = totals.index(max(totals))
    assert timeline.phase[fullest] == estimate.peak_phase
    at_the_peak = {name: sizes[fullest] for name, sizes in timeline.components_bytes.items()}
    assert at_the_peak == estimate.components_bytes
    assert [phase for _, phase in timeline.phase_starts()] == ["forward", "backward", "optimizer"]
    assert timeline.at[0] == 0
    assert list(timeline.at) == sorted(set(timeline.at))
    assert timeline.at[-1] <= 1
    assert len(timeline.at) <= TIMELINE_POINTS + 3  # a point more where a phase begins


def test_the_timeline_leaves_the_first_step_out(tiny_plan: FineTunePlan) -> None:
    estimate = read(two_steps(5, first_larger=True), tiny_plan)
    assert estimate.timeline is not None
    assert estimate.peak_allocated_bytes > 900 * MIB
    assert max(estimate.timeline.total_bytes()) < 900 * MIB


def test_on_a_cpu_there_is_no_cache_to_speak_of(tiny_plan: FineTunePlan) -> None:
    counts = ParameterCounts(total=1, trainable=1)
    estimate = estimate_from_trace(tiny_plan, two_steps(5), counts, "cpu")
    assert list(estimate.bands) == ["allocated"]
    assert estimate.peak_reserved_bytes is None
    assert estimate.timeline is not None
