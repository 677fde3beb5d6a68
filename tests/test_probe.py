"""Real probes in real worker processes: their end, whatever it is, is told in the run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer import launch
from trainer.results import ProbeRequest
from trainer.run_status import RunStatus
from trainer.runs import Run, list_runs


def started(plan: FineTunePlan, *, num_steps: int = 3, limit: float | None = None) -> Run:
    return launch.start(
        ProbeRequest(plan=plan, num_steps=num_steps, device="cpu", memory_limit_gib=limit)
    )


def waited(run: Run, until: Callable[[RunStatus], bool]) -> RunStatus:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status = run.status()
        if until(status):
            return status
        time.sleep(0.05)
    raise TimeoutError(f"{run.status()}\n{run.log_tail()}")


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_a_probe_measures_what_the_dry_run_said(tiny_plan: FineTunePlan, method: str) -> None:
    run = started(tiny_plan.changed(method=method))
    assert launch.wait(run).state == "finished", run.log_tail()
    result = run.result()
    assert result is not None
    assert result.measured is not None
    assert result.dry_run is not None
    measured = result.measured.peak_allocated_bytes
    assert result.dry_run.peak_allocated_bytes == pytest.approx(measured, rel=0.005)
    assert result.weights == "pretrained"
    assert result.data == "50 examples of questions.jsonl"
    assert result.measured.peak_reserved_bytes is None  # a CPU has no such thing
    steps = run.metrics()
    assert [row["step"] for row in steps] == [1, 2, 3]
    assert all(row["loss"] > 0 and row["peak_allocated_bytes"] for row in steps)
    assert max(row["peak_allocated_bytes"] for row in steps) == pytest.approx(measured, rel=0.001)


def test_training_learns(tiny_plan: FineTunePlan) -> None:
    plan = tiny_plan.changed(method="full", gradient_accumulation_steps=1, seq_len=128)
    run = started(plan, num_steps=60)
    launch.wait(run)
    losses = [row["loss"] for row in run.metrics()]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_a_worker_that_is_killed_leaves_a_failed_run(tiny_plan: FineTunePlan) -> None:
    run = started(tiny_plan, num_steps=10_000)
    pid = waited(run, lambda status: status.step >= 1).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    status = waited(run, lambda status: status.is_final)
    assert status.state == "failed"
    assert f"pid {pid}" in status.reason
    assert "step" in status.reason


def test_a_probe_stops_at_the_end_of_a_step_and_keeps_what_it_measured(
    tiny_plan: FineTunePlan,
) -> None:
    run = started(tiny_plan, num_steps=10_000)
    waited(run, lambda status: status.step >= 2)
    assert launch.stop(run).state == "stopped"
    result = run.result()
    assert result is not None
    assert result.stopped_early
    assert result.measured is not None
    waited(run, lambda status: status.worker() is None)


def test_out_of_memory_is_a_result_with_changes_that_fit(tiny_plan: FineTunePlan) -> None:
    plan = tiny_plan.changed(
        method="full", seq_len=1024, micro_batch_size=16, gradient_checkpointing=False
    )
    run = started(plan, limit=0.5)
    status = launch.wait(run)
    assert status.state == "out_of_memory", (status, run.log_tail())
    result = run.result()
    assert result is not None
    assert result.measured is None
    shortage = result.out_of_memory
    assert shortage is not None
    assert shortage.requested_bytes
    assert shortage.capacity_bytes == 2**29
    assert shortage.phase in ("forward", "backward")
    assert shortage.changes
    assert all(one.peak_allocated_bytes <= 2**29 for one in shortage.changes)


def test_nothing_is_begun_on_broken_data(
    tiny_plan: FineTunePlan, tmp_path: Path, home: Path
) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"text": "fine"}\n' * 16 + '{"text": \n')
    with pytest.raises(InputError, match="line 17"):
        launch.start(ProbeRequest(plan=tiny_plan, data_path=str(path)))
    assert not home.exists() or not list_runs()
