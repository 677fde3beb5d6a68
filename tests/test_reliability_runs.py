"""What can happen to any run, whatever it does: clocks, terminals, shells, and the table of it all.

The workers here are light ones; those that train are in test_reliability.py.
"""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from estimator.plan import load_plan
from estimator.problems import InputError
from trainer import checkpoints, kept_inputs, launch, run_writer
from trainer.finetune_results import FineTuneRequest
from trainer.requests import Request
from trainer.results import ProbeRequest
from trainer.run_writer import RunWriter, create_run
from trainer.runs import Run, find_run
from tuneplan import app

PROJECT = Path(__file__).resolve().parents[1]
EXAMPLES = PROJECT / "examples"
SOURCES = (
    "app.py",
    "tuneplan.py",
    "commands",
    "pages",
    "reports",
    "advisor",
    "trainer",
    "estimator",
)

SLOW_STEP = """
import sys, time
from pathlib import Path
from trainer.run_writer import RunWriter

writer = RunWriter(Path(sys.argv[1]))
writer.status(state="running", activity="step 7 of 9", step=7)
while not writer.stop_requested():
    time.sleep(0.02)
time.sleep(float(sys.argv[0].endswith("slow_step.py")))
writer.status(state="stopped")
"""


def request_for(*overrides: str) -> FineTuneRequest:
    return FineTuneRequest(plan=load_plan(EXAMPLES / "tiny.yaml", overrides), device="cpu")


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def rewrite_status(run: Run, **changes: object) -> None:
    path = run.folder / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, default=str))


@pytest.mark.parametrize("moved", [timedelta(days=-2), timedelta(days=2)])
def test_a_clock_that_moves_ends_no_run_and_makes_no_time_negative(moved: timedelta) -> None:
    run = create_run(request_for())
    RunWriter(run.folder).status(state="running", activity="step 3 of 6")
    then = datetime.now(UTC) - moved  # what was written before the clock was moved
    rewrite_status(run, heartbeat=then, started_at=then)
    assert run.status().state == "running"
    assert run.status().seconds >= 0
    rewrite_status(run, pid_started=1.0)  # and now the worker is gone
    status = run.status()
    assert status.state == "failed"
    assert status.seconds >= 0
    assert not re.search(r"-\d+ s\b", status.reason)


@pytest.mark.parametrize("moved", [timedelta(days=-2), timedelta(days=2)])
def test_a_run_that_never_began_is_noticed_though_the_clock_moved(moved: timedelta) -> None:
    run = create_run(request_for())
    rewrite_status(run, started_at=datetime.now(UTC) - moved)
    assert run.status().state == "failed"
    assert "no worker ever began" in run.status().reason


def test_checkpoints_are_kept_by_their_steps_whatever_the_clock_says(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_text(str(step))
        checkpoints.seal(folder)
        os.utime(folder, (2e9 - step, 2e9 - step))  # each newer one looks older
    checkpoints.delete_old(tmp_path, best=str(tmp_path / "checkpoint-8"))
    kept = {checkpoints.step_of(path) for path in tmp_path.iterdir()}
    assert kept == {8, 10, 11}
    newest, _ = checkpoints.newest_whole(tmp_path)
    assert newest == tmp_path / "checkpoint-11"


def test_a_heartbeat_is_written_however_long_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_writer, "HEARTBEAT_SECONDS", 0.05)
    run = create_run(request_for())
    writer = RunWriter(run.folder)
    writer.status(state="running", activity="step 3 of 6")
    with writer.beating():
        for _ in range(3):
            last = run.status().heartbeat
            until(lambda last=last: run.status().heartbeat > last)
    assert run.status().activity == "step 3 of 6"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # and becomes another
def test_closing_the_terminal_leaves_the_run_going(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The starter has a terminal of its own, which hangs up."""
    (tmp_path / "light_worker.py").write_text(SLOW_STEP)
    request = request_for().model_dump_json()
    program = (
        "import time; from trainer.finetune_results import FineTuneRequest\n"
        "from trainer.launch import start\n"
        f"start(FineTuneRequest.model_validate_json({request!r}), module='light_worker')\n"
        "print('started', flush=True); time.sleep(60)"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(PROJECT)]))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        assert b"started" in screen.readline()
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGHUP
    run = find_run("latest")
    until(lambda: run.status().state == "running")
    assert launch.stop(run).state == "stopped"


def test_a_stop_does_not_cut_off_a_long_step_unless_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_step.py").write_text(SLOW_STEP.replace("float(", "60 * float("))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = launch.start(request_for(), module="slow_step")
    until(lambda: run.status().step == 7)
    assert launch.stop(run, grace_seconds=0.2).state == "running"
    with pytest.raises(InputError, match="is running; allowed: a run that has ended"):
        launch.resume(run)
    done = CliRunner().invoke(app, ["runs", "stop", run.id, "--now"])
    assert done.exit_code == 0, done.output
    assert run.status().state == "stopped"
    assert "the worker was ended while at: step 7 of 9" in run.status().reason


def test_a_probe_is_not_taken_up_again() -> None:
    run = create_run(ProbeRequest(plan=request_for().plan))
    with pytest.raises(InputError, match="is a probe, which cannot be taken up again"):
        launch.resume(run)


def test_a_run_means_the_same_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "light_worker.py").write_text(SLOW_STEP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(EXAMPLES)
    as_read = ["data.format=prompt_completion"]
    plan = load_plan(Path("tiny.yaml"), as_read)
    assert plan.model == "tiny-llama"
    request = FineTuneRequest(plan=plan, data_path="questions.jsonl", device="cpu")
    run = launch.start(request, module="light_worker")
    monkeypatch.chdir(tmp_path)
    launch.stop(run)
    launch.resume(run, module="light_worker")
    assert launch.stop(run).state == "stopped"
    kept = run.request()
    assert isinstance(kept, FineTuneRequest)
    assert kept.data_path == str(EXAMPLES / "questions.jsonl")
    assert kept.plan == load_plan(EXAMPLES / "tiny.yaml", as_read)


def test_what_a_run_began_with_is_known_again(tmp_path: Path) -> None:
    model = shutil.copytree(EXAMPLES / "tiny-llama", tmp_path / "model")
    inputs = {"model": kept_inputs.model_fingerprint(model), "data a.jsonl": "1"}
    kept_inputs.check_same(tmp_path, inputs)  # nothing is known yet
    kept_inputs.keep(tmp_path, inputs)
    kept_inputs.check_same(tmp_path, inputs)
    with (model / "model.safetensors").open("ab") as stream:
        stream.write(b"more")
    inputs = {"model": kept_inputs.model_fingerprint(model), "data a.jsonl": "2"}
    with pytest.raises(InputError) as caught:
        kept_inputs.check_same(tmp_path, inputs)
    assert [problem.where for problem in caught.value.problems] == ["model", "data a.jsonl"]


@pytest.mark.parametrize(
    "request_",
    [
        FineTuneRequest(
            plan=request_for().plan,
            data_path=str(EXAMPLES / "questions.jsonl"),
            validation_path=str(EXAMPLES / "questions.jsonl"),
            memory_limit_gib=1 / 3,
            trust_remote_code=True,
            push_to_hub="someone/it's; rm -rf $HOME",
            public=True,
        ),
        ProbeRequest(plan=request_for("adapter.r=3").plan, num_steps=9, find_batch=True),
    ],
)
def test_the_command_that_a_run_shows_asks_for_the_same(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(request_)
    shown = CliRunner().invoke(app, ["runs", "show", run.id]).stdout
    (line,) = (line for line in shown.splitlines() if line.startswith("tuneplan "))
    words = shlex.split(line)
    asked: list[Request] = []

    def start(request: Request) -> Run:
        asked.append(request)
        raise InputError([])

    monkeypatch.setattr(launch, "start", start)
    CliRunner().invoke(app, words[1:])
    assert asked == [request_]


def test_nothing_goes_through_a_shell() -> None:
    files = [file for name in SOURCES for file in sorted((PROJECT / name).rglob("*.py"))]
    files += [PROJECT / name for name in SOURCES if name.endswith(".py")]
    assert len(files) > 100
    through_shells = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                where = f"{file}:{node.lineno}"
                assert ast.unparse(node.func) not in through_shells, where
                assert "shell" not in {keyword.arg for keyword in node.keywords}, where


def test_every_row_of_the_fault_table_names_tests_that_exist() -> None:
    rows = [
        line
        for line in (PROJECT / "docs" / "reliability.md").read_text().splitlines()
        if line.startswith("| ") and "---" not in line and not line.startswith("| What happens")
    ]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            tree = ast.parse((PROJECT / "tests" / f"{file}.py").read_text())
            assert test in {getattr(node, "name", "") for node in ast.walk(tree)}, (row, test)
