"""Real worker processes: started, watched, stopped, killed, orphaned."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pynvml
import pytest

from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer import launch
from trainer.machine import LocalGpu, describe_machine
from trainer.results import ProbeRequest
from trainer.runs import Run, find_run, list_runs

REQUEST = ProbeRequest(
    plan=FineTunePlan(model="meta-llama/Llama-2-7b-hf", method="lora"), num_steps=100
)

WORKER = """
import signal, sys, time
from pathlib import Path
from trainer.run_writer import RunWriter

folder, kind = Path(sys.argv[1]), {kind!r}
if kind == "broken":
    raise ImportError("no module named torch")
if kind == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
writer = RunWriter(folder)
for step in range(1, 400 if kind == "deaf" else 60):
    writer.status(state="running", activity=f"step {{step}} of 100", step=step)
    writer.metric({{"step": step, "loss": 1 / step}})
    print("step", step, flush=True)
    if kind != "deaf" and writer.stop_requested():
        writer.status(state="stopped")
        raise SystemExit
    time.sleep(0.02)
writer.status(state="finished")
"""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for kind in ("steady", "broken", "deaf"):
        (tmp_path / f"worker_{kind}.py").write_text(WORKER.format(kind=kind))
    yield
    for run in list_runs():
        worker = run.status().worker()
        if worker:
            worker.kill()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def started(kind: str) -> Run:
    run = launch.start(REQUEST, module=f"worker_{kind}")
    until(lambda: run.status().step >= 2)
    return run


def test_a_run_is_watched_to_its_end() -> None:
    run = launch.start(REQUEST, module="worker_steady")
    assert run.status().pid is not None
    seen = []
    last = launch.wait(run, seen.append)
    assert last.state == "finished"
    assert seen[0].state in ("starting", "running")
    assert [status.step for status in seen] == sorted(status.step for status in seen)
    assert len(run.metrics()) == 59
    assert run.log_tail(1) == ["step 59"]


def test_a_gpu_that_does_not_tell_its_memory_is_still_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unsupported(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    names = {"Init": None, "Shutdown": None, "DeviceGetCount": 1, "DeviceGetHandleByIndex": 7}
    for name, answer in names.items():
        monkeypatch.setattr(pynvml, f"nvml{name}", lambda *_, answer=answer: answer)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda _: "GB10")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", unsupported)
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "590.1")
    monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion", unsupported)
    machine = describe_machine()
    assert (machine.driver, machine.cuda) == ("590.1", None)
    assert machine.gpus == (LocalGpu(name="GB10", memory_bytes=None, free_bytes=None),)


def test_what_cannot_run_is_refused_before_it_begins(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "fine"}\n{"text": ')
    plan = FineTunePlan(model=str(tmp_path), method="lora")
    request = ProbeRequest(plan=plan, data_path=str(data))
    with pytest.raises(InputError) as caught:
        launch.start(request, module="worker_steady")
    model, line = caught.value.problems
    assert "config.json" in str(model)
    assert f"{data}: line 2" in str(line)
    assert list_runs() == []


def test_sigkill_in_mid_run_reads_failed_with_the_reason() -> None:
    run = started("steady")
    pid = run.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    last = launch.wait(run)
    assert last.state == "failed"
    for part in (str(pid), "killed from outside", "last log line: step", "it was at: step"):
        assert part in last.reason
    assert last.ended_at is not None


def test_a_worker_that_breaks_at_once_reads_failed_with_its_last_words() -> None:
    last = launch.wait(launch.start(REQUEST, module="worker_broken"))
    assert last.state == "failed"
    assert "no module named torch" in last.reason


def test_stop_lets_the_step_end() -> None:
    run = started("steady")
    assert launch.stop(run).state == "stopped"
    assert run.status().reason == ""
    assert launch.stop(run).state == "stopped", "stopping twice changes nothing"


def test_a_worker_that_does_not_listen_is_ended_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "TERM_SECONDS", 0.2)
    run = started("deaf")
    status = run.status()
    last = launch.stop(run, grace_seconds=0.1)
    assert last.state == "stopped"
    assert "ended while at" in last.reason
    assert status.worker() is None


def test_the_run_goes_on_when_its_starter_and_the_terminal_are_gone(tmp_path: Path) -> None:
    program = (
        "import time; from trainer.launch import start; from tests_request import REQUEST\n"
        "print(start(REQUEST, module='worker_steady').id, flush=True); time.sleep(60)"
    )
    (tmp_path / "tests_request.py").write_text(
        "from trainer.results import ProbeRequest\n"
        f"REQUEST = ProbeRequest.model_validate_json({REQUEST.model_dump_json()!r})\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True, text=True
    ) as starter:
        assert starter.stdout is not None
        name = starter.stdout.readline().strip()
        os.killpg(starter.pid, signal.SIGKILL)  # what closing the terminal does, only harder
    run = find_run(name)
    assert not psutil.pid_exists(starter.pid)
    assert not run.status().is_final
    assert launch.wait(run).state == "finished"


def test_a_module_in_the_users_folder_does_not_replace_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "project"
    theirs.mkdir()
    (theirs / "trainer.py").write_text("raise SystemExit('not the trainer')")
    monkeypatch.chdir(theirs)
    assert launch.wait(launch.start(REQUEST, module="worker_steady")).state == "finished"


def dry_run_as(
    body: str, tmp_path: Path, on_progress: Callable[[str], None] | None = None
) -> object:
    (tmp_path / "stand_in.py").write_text(f"import json, sys, time\n{body}\n")
    return launch.dry_run(REQUEST.plan, module="stand_in", on_progress=on_progress)


def test_a_dry_run_passes_on_progress_and_problems(tmp_path: Path) -> None:
    body = (
        "assert json.load(sys.stdin)['plan']['method'] == 'lora'\n"
        "print('progress: building the model', file=sys.stderr, flush=True)\n"
        "problem = dict(where='model', what='is unknown', allowed='', fix='check the name')\n"
        "print(json.dumps({'problems': [problem]}))\n"
        "sys.exit(2)"
    )
    said: list[str] = []
    with pytest.raises(InputError, match="model: is unknown; fix: check the name"):
        dry_run_as(body, tmp_path, on_progress=said.append)
    assert said == ["building the model"]


def test_a_broken_dry_run_shows_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(launch.WorkerFailed, match=r"(?s)ended with status 1.*no such kernel"):
        dry_run_as("raise KeyError('no such kernel')", tmp_path)
    with pytest.raises(launch.WorkerFailed) as caught:
        dry_run_as("raise KeyError('no such kernel')", tmp_path)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert any("Traceback" in line for line in caught.value.log)
    with pytest.raises(launch.WorkerFailed, match="killed by signal 9"):
        dry_run_as("import os; os.kill(os.getpid(), 9)", tmp_path)


def test_an_interrupted_dry_run_leaves_no_process(tmp_path: Path) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    body = "print('progress: on it', file=sys.stderr, flush=True); time.sleep(60)"
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        dry_run_as(body, tmp_path, on_progress=interrupt)
    assert time.monotonic() - before < 20
    assert not [p for p in psutil.Process().children() if "stand_in" in p.cmdline()]
