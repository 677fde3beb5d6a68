"""The trace: who is alive when, and the fullest moment."""

from estimator.trace import Trace


def a_step() -> Trace:
    trace = Trace()
    trace.mark("load")
    weights = trace.born(100, "weights")
    trace.mark("forward")
    kept = trace.born(50, "activations")
    passing = trace.born(30)
    trace.died(passing)
    trace.mark("backward")
    gradient = trace.born(100, "gradients")
    trace.died(kept)
    trace.mark("optimizer")
    trace.died(gradient)
    trace.died(weights)
    return trace


def test_the_peak_says_what_is_alive_and_in_which_phase() -> None:
    peak = a_step().peak()
    assert peak.size_bytes == 250
    assert peak.phase == "backward"
    assert peak.components_bytes == {"weights": 100, "activations": 50, "gradients": 100}


def test_each_phase_has_its_own_peak_and_begins_with_what_the_last_one_left() -> None:
    peaks = a_step().phase_peaks()
    assert peaks == {"load": 100, "forward": 180, "backward": 250, "optimizer": 200}


def test_a_phase_that_comes_back_keeps_the_larger_of_its_peaks() -> None:
    trace = Trace()
    for size in (10, 40, 20):
        trace.mark("forward")
        trace.died(trace.born(size))
    assert trace.phase_peaks() == {"forward": 40}


def test_other_sizes_leave_the_trace_they_came_from_alone() -> None:
    trace = a_step()
    doubled = trace.with_sizes([2 * size for size in trace.sizes])
    assert doubled.peak().size_bytes == 500
    assert trace.peak().size_bytes == 250
