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


def micro_batches(num: int) -> Trace:
    """Micro-batches whose logits die as backward begins, before the gradient is born."""
    trace = Trace()
    for _ in range(num):
        trace.mark("forward")
        logits = trace.born(500, "logits")
        trace.outputs.add(logits)
        loss = trace.born(4)
        trace.mark("backward")
        trace.died(logits)
        trace.died(trace.born(600, "gradients"))
        trace.died(loss)
    return trace


def test_outputs_that_are_held_live_until_the_next_are_there() -> None:
    trace = micro_batches(2)
    held = trace.with_outputs_held()
    assert trace.peak().size_bytes == 604
    assert held.peak().size_bytes == 500 + 604
    assert held.phase_peaks() == {"forward": 2 * 500 + 4, "backward": 500 + 604}


def test_outputs_that_are_held_die_once_and_nothing_else_moves() -> None:
    trace = micro_batches(3)
    held = trace.with_outputs_held()
    assert held.sizes == trace.sizes
    assert sorted(held.events) == sorted(trace.events)
    assert [phase for _, phase in held.marks] == [phase for _, phase in trace.marks]

    def others(one: Trace) -> list[int]:
        return [event for event in one.events if event >= 0 or ~event not in one.outputs]

    assert others(held) == others(trace)
    assert held.phase_peaks()["forward"] == 2 * 500 + 4  # of three, never more than two


def test_a_trace_without_outputs_stays_as_it_is() -> None:
    trace = a_step()
    assert trace.with_outputs_held().events == trace.events
    assert trace.with_outputs_held().marks == trace.marks
