import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer import launch
from trainer.results import OutOfMemory, ProbeRequest, ProbeResult
from trainer.run_status import process_identity, started
from trainer.run_writer import MIN_FREE_BYTES, RunWriter, create_run, record_worker
from trainer.runs import Run, find_run, list_runs
from tuneplan import app

REQUEST = ProbeRequest(plan=FineTunePlan(model="some-org/Tiny_Llama", method="qlora"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def rewrite_status(run: Run, **changes: object) -> None:
    path = run.folder / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_new_run_says_what_it_is_and_what_was_asked(home: Path) -> None:
    run = create_run(REQUEST)
    assert run.folder.parent == home / "runs"
    day, second, slug = run.id.split("-", 2)
    assert (len(day), len(second)) == (8, 6)
    assert slug.startswith("tiny-llama-qlora-")
    assert run.request() == REQUEST
    assert json.loads((run.folder / "plan.json").read_text()) == REQUEST.plan.to_document()
    assert run.status().state == "starting"
    assert run.metrics() == []
    assert run.result() is None
    assert run.log_tail() == []


def test_what_the_worker_writes_is_what_others_read() -> None:
    run = create_run(REQUEST)
    writer = RunWriter(run.folder)
    writer.status(state="running", activity="step 1 of 6", step=1)
    writer.metric({"step": 1, "loss": 5.5})
    status = run.status()
    assert (status.state, status.activity, status.step) == ("running", "step 1 of 6", 1)
    assert status.pid == os.getpid()
    assert status.ended_at is None
    assert [(row["step"], row["loss"]) for row in run.metrics()] == [(1, 5.5)]
    assert not writer.stop_requested()
    run.request_stop()
    assert writer.stop_requested()
    result = ProbeResult(
        plan=REQUEST.plan,
        device="cpu",
        device_name="a CPU",
        weights="random",
        data="synthetic",
        dry_run=None,
        formula=None,
        out_of_memory=OutOfMemory(
            phase="forward",
            requested_bytes=8,
            allocated_bytes=None,
            capacity_bytes=4,
            message="too small",
        ),
    )
    writer.result(result)
    writer.status(state="out_of_memory")
    assert run.result() == result
    assert run.status().ended_at is not None


def test_a_torn_last_line_of_metrics_is_left_out() -> None:
    run = create_run(REQUEST)
    (run.folder / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert [row["step"] for row in run.metrics()] == [1, 2]


def test_the_newest_steps_of_a_long_run_are_read_alone() -> None:
    run = create_run(REQUEST)
    writer = RunWriter(run.folder)
    for step in range(1, 101):
        writer.metric({"step": step, "loss": None, "padding": "x" * 200})
    assert [row["step"] for row in run.metrics(last=3)] == [98, 99, 100]
    assert run.metrics(last=1000) == run.metrics()


def test_a_run_deleted_while_it_is_watched_reads_failed() -> None:
    run = create_run(REQUEST)
    RunWriter(run.folder).status(state="running")
    shutil.rmtree(run.folder)
    status = run.status()
    assert status.state == "failed"
    assert "folder is gone" in status.reason
    assert run.metrics() == run.log_tail() == []


def test_recording_the_worker_leaves_what_it_has_written_alone() -> None:
    run = create_run(REQUEST)
    before = (run.folder / "status.json").read_text()
    record_worker(run, os.getpid())
    assert (run.folder / "status.json").read_text() == before
    assert run.status().pid == os.getpid()
    RunWriter(run.folder).status(state="finished")
    record_worker(run, os.getppid())
    assert (run.status().state, run.status().pid) == ("finished", os.getpid())


def test_a_recycled_pid_does_not_pass_for_the_worker() -> None:
    run = create_run(REQUEST)
    RunWriter(run.folder).status(state="running", activity="step 3 of 6")
    assert run.status().state == "running"
    rewrite_status(run, pid_started=started(psutil.Process()) - 3600)
    status = run.status()
    assert status.state == "failed"
    assert "step 3 of 6" in status.reason
    assert json.loads((run.folder / "status.json").read_text())["state"] == "failed"


def test_a_worker_on_another_machine_is_not_judged_from_here() -> None:
    run = create_run(REQUEST)
    RunWriter(run.folder).status(state="running")
    rewrite_status(run, host="another-node", pid_started=1.0)
    assert run.status().state == "running"


def test_an_ended_child_that_nobody_collected_counts_as_gone() -> None:
    run = create_run(REQUEST)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        RunWriter(run.folder).status(state="running")
        rewrite_status(run, **process_identity(psutil.Process(child.pid)))
        assert run.status().state == "running"
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
        assert run.status().state == "failed"


def test_a_run_that_no_worker_ever_took_up_fails_in_time() -> None:
    run = create_run(REQUEST)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    rewrite_status(run, started_at=long_ago.isoformat(), heartbeat=long_ago.isoformat())
    status = run.status()
    assert status.state == "failed"
    assert "no worker" in status.reason


def test_a_damaged_run_reads_failed_and_hides_no_other() -> None:
    good, bad = create_run(REQUEST), create_run(REQUEST)
    (bad.folder / "status.json").write_text('{"state": "runn')
    (bad.folder / "request.json").write_text("")
    states = {run.id: run.status().state for run in list_runs()}
    assert states == {good.id: "starting", bad.id: "failed"}
    with pytest.raises(InputError, match="damaged"):
        bad.request()


def test_runs_are_found_by_the_start_of_their_id() -> None:
    runs = [create_run(REQUEST) for _ in range(3)]
    old = runs[0].folder.rename(runs[0].folder.with_name("20240101-000000-tiny-llama-lora-00"))
    assert list_runs()[-1] == Run(old)
    assert find_run("2024") == Run(old)
    assert find_run(runs[1].id) == runs[1]
    assert find_run("latest") == list_runs()[0]
    with pytest.raises(InputError, match="2 runs begin so"):
        find_run(runs[1].id[:10])
    with pytest.raises(InputError, match="no such run"):
        find_run("../home")


def test_a_runs_folder_that_cannot_be_written_is_one_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    monkeypatch.setenv("TUNEPLAN_HOME", str(blocker))
    with pytest.raises(InputError) as caught:
        create_run(REQUEST)
    (problem,) = caught.value.problems
    assert str(blocker) in problem.where
    assert "TUNEPLAN_HOME" in problem.fix


def test_a_full_disk_leaves_nothing_behind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=MIN_FREE_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="MiB free"):
        create_run(REQUEST)
    assert list((home / "runs").iterdir()) == []


def test_stopping_a_run_that_goes_on_all_the_same_exits_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "stop", partial(launch.stop, grace_seconds=0))
    run = create_run(REQUEST)
    RunWriter(run.folder).status(state="running", host="another-node")
    done = CliRunner().invoke(app, ["runs", "stop", run.id])
    assert done.exit_code == 1
    assert "its worker is on another-node" in " ".join(done.stdout.split())


def test_ids_and_states_stay_whole_and_validation_loss_has_its_column() -> None:
    runs = CliRunner(env={"COLUMNS": "80"})
    plan = REQUEST.plan.changed(model=f"org/{'m' * 60}")
    long = create_run(ProbeRequest(plan=plan))
    writer = RunWriter(long.folder)
    writer.metric({"step": 1, "loss": 5.5, "step_seconds": 1.0, "tokens_per_second": None})
    writer.metric({"step": 1, "epoch": 1.0, "validation_loss": 4.25})
    writer.metric({"step": 2, "loss": 5.25, "step_seconds": 1.0})
    writer.status(state="out_of_memory", reason="it did not fit")
    listed = runs.invoke(app, ["runs", "list"]).output.splitlines()
    assert listed[0] == long.id
    assert listed[1].split()[:4] == ["probe", "out", "of", "memory"]
    shown = [
        line.split() for line in runs.invoke(app, ["runs", "show", "latest"]).output.split("\n")
    ]
    assert ["step", "loss", "validation", "loss", "time"] in shown
    assert ["1", "5.5000", "4.2500", "1.0", "s"] in shown
    assert ["2", "5.2500", "1.0", "s"] in shown
