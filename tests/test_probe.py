"""Real probes in real worker processes: their end, whatever it is, is told in the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from estimator.changes import with_keys
from estimator.gpus import GIB
from estimator.memory import read_formula
from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer import launch
from trainer.results import BatchTry, OutOfMemory, ProbeRequest, ProbeResult
from trainer.run_status import RunStatus
from trainer.runs import Run, list_runs
from trainer.shortage import answered


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
        if status.state == "failed":
            break
        time.sleep(0.05)
    raise TimeoutError(f"{run.status()}\n{run.log_tail()}")


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "full"},
        {"method": "lora"},
        {"method": "qlora", "padded": True},
        {"method": "lora", "quantization": "int8"},
    ],
    ids=["full", "lora", "qlora", "int8"],
)
def test_a_probe_measures_what_the_dry_run_said(
    tiny_plan: FineTunePlan, changes: dict[str, Any]
) -> None:
    run = started(tiny_plan.changed(**changes), num_steps=4)
    assert launch.wait(run).state == "finished", run.log_tail()
    result = run.result()
    assert isinstance(result, ProbeResult)
    assert result.measured is not None
    assert result.dry_run is not None
    measured = result.measured.peak_allocated_bytes
    assert result.dry_run.peak_allocated_bytes == pytest.approx(measured, rel=0.001)
    assert result.weights == "pretrained"
    assert result.data == "50 examples of questions.jsonl"
    assert result.measured.peak_reserved_bytes is None  # a CPU has no such thing
    assert result.gpu_use is None
    steps = run.metrics()
    assert [row["role"] for row in steps] == ["watched", "watched", "timed", "timed"]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert all(row["loss"] > 0 and row["peak_allocated_bytes"] for row in steps)
    assert max(row["peak_allocated_bytes"] for row in steps) == pytest.approx(measured, rel=0.001)
    check_times(result, steps)


def check_times(result: ProbeResult, steps: list[dict[str, Any]]) -> None:
    """Times are of the data's own batches, whose tokens are counted without their padding."""
    assert result.lengths is not None
    assert result.lengths.num_rows == 2 * 2 * 4  # steps x micro-batches x rows
    assert result.step_seconds_median == pytest.approx(
        sum(row["step_seconds"] for row in steps[2:]) / 2
    )
    assert result.step_seconds_p95 is not None
    assert result.tokens_per_second is not None
    if result.plan.padded:
        assert result.lengths.longest < result.plan.seq_len
        assert result.padded_tokens_per_second is not None
        assert result.padded_tokens_per_second > result.tokens_per_second
        assert (result.timed_peak_bytes or 0) < steps[1]["peak_allocated_bytes"]
    else:
        assert result.lengths.shortest == result.plan.seq_len
        assert result.padded_tokens_per_second is None
    assert result.whole_run is not None
    assert result.whole_run.hours is not None
    assert result.whole_run.usd is None  # a CPU says nothing of what a GPU would cost


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


LIMIT_GIB = 0.25


@pytest.fixture(scope="session")
def large_plan(tiny_plan: FineTunePlan) -> FineTunePlan:
    """A plan that is too large for the limit, and yet takes a step in a second."""
    return tiny_plan.changed(
        method="full",
        autocast_dtype="none",
        seq_len=1024,
        micro_batch_size=6,
        gradient_checkpointing=False,
        gradient_accumulation_steps=1,
    )


def test_out_of_memory_is_a_result_with_changes_that_do_run(large_plan: FineTunePlan) -> None:
    run = started(large_plan, limit=LIMIT_GIB)
    status = launch.wait(run)
    assert status.state == "out_of_memory", (status, run.log_tail())
    result = run.result()
    assert isinstance(result, ProbeResult)
    assert result.measured is None
    shortage = result.out_of_memory
    assert shortage is not None
    assert shortage.requested_bytes
    assert shortage.capacity_bytes == LIMIT_GIB * GIB
    assert shortage.phase in ("forward", "backward")
    assert len(shortage.changes) > 1
    assert shortage.changes[0].training == "same"
    requests = [
        ProbeRequest(
            plan=with_keys(large_plan, change.keys), device="cpu", memory_limit_gib=LIMIT_GIB
        )
        for change in shortage.changes
    ]
    for made, change in zip(tried(requests), shortage.changes, strict=True):
        assert made.ran, (change, made)
        assert made.peak_allocated_bytes == pytest.approx(change.peak_allocated_bytes, rel=0.02)


def tried(requests: list[ProbeRequest]) -> list[BatchTry]:
    """Really take the steps of some requests, in one process that is as fresh as a worker."""
    code = """
import sys
from trainer.batch_try import try_batch
from trainer.results import BatchTry, OutOfMemory, ProbeRequest, ProbeResult
for line in sys.stdin:
    print("made:", try_batch(ProbeRequest.model_validate_json(line)).model_dump_json())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="\n".join(request.model_dump_json() for request in requests),
        env=launch.worker_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("made:")]
    assert len(lines) == len(requests), done.stderr
    return [BatchTry.model_validate_json(line.removeprefix("made:")) for line in lines]


def test_where_no_single_change_is_enough_several_go_together(tiny_plan: FineTunePlan) -> None:
    far_too_large = tiny_plan.changed(
        method="full", seq_len=4096, micro_batch_size=8, gradient_checkpointing=False
    ).changed(attention="eager")
    shortage = OutOfMemory(
        phase="forward",
        requested_bytes=None,
        allocated_bytes=None,
        capacity_bytes=140 * 2**20,
        message="out of memory",
    )
    (change,) = answered(shortage, far_too_large, torch.device("cpu")).changes
    assert len(change.text.split(", and ")) > 1
    fitting = read_formula(with_keys(far_too_large, change.keys), device="cpu")
    assert fitting.peak_allocated_bytes == change.peak_allocated_bytes < shortage.capacity_bytes


def test_the_largest_batch_is_found_and_sigterm_keeps_what_was_measured(
    large_plan: FineTunePlan,
) -> None:
    request = ProbeRequest(
        plan=large_plan.changed(data={}),  # of examples there are fewer than would fit
        num_steps=10_000,
        device="cpu",
        memory_limit_gib=LIMIT_GIB,
        find_batch=True,
    )
    run = launch.start(request)
    pid = waited(run, lambda status: status.step >= 3).pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    status = waited(run, lambda status: status.is_final)
    assert status.state == "stopped", status
    assert "SIGTERM" in status.reason
    result = run.result()
    assert isinstance(result, ProbeResult)
    assert result.measured is not None
    assert result.stopped_early
    assert result.num_steps >= 3
    search = result.batch_search
    assert search is not None
    assert search.is_exact
    assert search.largest == result.plan.micro_batch_size
    ran = {one.micro_batch_size: one.ran for one in search.tries}
    assert ran[search.largest]
    assert ran[search.largest + 1] is False
    peaks = {one.micro_batch_size: one.peak_allocated_bytes for one in search.tries}
    measured = result.measured.peak_allocated_bytes
    assert peaks[search.largest] == pytest.approx(measured, rel=0.001)


def test_nothing_is_begun_on_broken_data(
    tiny_plan: FineTunePlan, tmp_path: Path, home: Path
) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"text": "fine"}\n' * 16 + '{"text": \n')
    with pytest.raises(InputError, match="line 17"):
        launch.start(ProbeRequest(plan=tiny_plan, data_path=str(path)))
    assert not home.exists() or not list_runs()
