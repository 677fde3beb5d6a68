"""Starting, watching and stopping the processes in which torch lives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock
from pydantic import ValidationError

from estimator.estimate import MemoryEstimate
from estimator.models import resolve_model
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem, problems_of
from trainer.dry_run_cache import find_dry_run, keep_dry_run
from trainer.examples import PROBE_EXAMPLES, open_examples
from trainer.finetune_inputs import finetune_problems
from trainer.machine import describe_machine
from trainer.probe_inputs import input_problems
from trainer.redact import refuse_secrets
from trainer.requests import Request, anywhere
from trainer.results import ProbeRequest
from trainer.run_status import RunStatus
from trainer.run_writer import again, create_run, record_worker
from trainer.runs import Run
from trainer.search_check import search_problems
from trainer.search_results import SearchRequest

_PROJECT = Path(__file__).resolve().parent.parent
_PROGRESS = "progress: "
TERM_SECONDS = 3.0
"""How long a worker has between being told to end and being killed."""


class WorkerFailed(RuntimeError):
    """A worker process broke; the message ends with the last line it wrote.

    Attributes:
        log: The last lines that it wrote, a traceback among them.
    """

    def __init__(self, message: str, log: Sequence[str] = ()) -> None:
        self.log = tuple(log)
        super().__init__(message)


def start(request: Request, *, module: str = "trainer.worker") -> Run:
    """Start a run in a process of its own and return it at once.

    The worker is in a session of its own: it goes on when the terminal, the browser or the
    server that started it is gone.

    Args:
        request: What to run.
        module: The Python module that does the work, given the run's folder.

    Raises:
        InputError: The model, the data or the device cannot be used, or the run folder cannot
            be written; nothing is left behind.
    """
    _check(request)
    if not isinstance(request, ProbeRequest):  # it may be taken up again from another folder
        request = anywhere(request)
    run = create_run(request)
    try:
        _start_worker(run, request, module)
    except OSError as error:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise InputError(Problem(str(run.folder), f"no worker starts ({error})")) from error
    return run


def resume(run: Run, *, module: str = "trainer.worker") -> Run:
    """Take up a fine-tune or a search that ended before all was done.

    A fine-tune goes on from its newest whole checkpoint, a search with the trial it was at.

    Raises:
        InputError: It is neither, is still going on, or has nothing left to do.
    """
    request = run.request()
    where = f"run {run.id}"
    if isinstance(request, ProbeRequest):
        what = f"is a {request.kind}, which cannot be taken up again"
        raise InputError(Problem(where, what, "a fine-tune or a search", "start a new one"))
    with FileLock(run.folder / ".resume"):  # of two at once, one finds it taken up already
        status = run.status()
        if not status.is_final:
            fix = f"see `tuneplan runs show {run.id}`"
            raise InputError(Problem(where, f"is {status.state}", "a run that has ended", fix))
        if status.state == "finished":
            raise InputError(Problem(where, "is finished: there is nothing left to do"))
        _check(request)
        again(run)
        _start_worker(run, request, module)
    return run


def _start_worker(run: Run, request: Request, module: str) -> None:
    with (run.folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            worker_command(module, str(run.folder)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=worker_environment() | _one_gpu() | _allocator_settings(request.plan),
        )
    record_worker(run, process.pid)
    # Somebody has to collect the ended child, or it stays in the process table as a zombie.
    threading.Thread(target=process.wait, daemon=True).start()


def _one_gpu() -> dict[str, str]:
    """Return the environment in which a worker sees one GPU: more of them it would use at once."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return {"CUDA_VISIBLE_DEVICES": seen.split(",")[0]}


def _allocator_settings(plan: FineTunePlan) -> dict[str, str]:
    """Return the environment in which PyTorch's CUDA allocator is as the plan has it."""
    if not plan.expandable_segments:
        return {}
    name = "PYTORCH_CUDA_ALLOC_CONF"
    given = [os.environ[name]] if os.environ.get(name) else []
    return {name: ",".join([*given, "expandable_segments:True"])}


def _check(request: Request) -> None:
    """Find now what the worker would find wrong in half a minute."""
    refuse_secrets(request.to_document(), "run")  # all of it is kept with the run
    data = request.plan.data
    data_path = request.data_path or data.path
    checks = (
        lambda: resolve_model(request.plan.model),
        lambda: open_examples(data_path, data.format).check(PROBE_EXAMPLES) if data_path else None,
    )
    problems = problems_of(checks)
    if isinstance(request, ProbeRequest):
        found = input_problems(request)
    elif isinstance(request, SearchRequest):
        found = search_problems(request)
    else:
        found = finetune_problems(request)
    problems += [one for one in found if one not in problems]
    if request.device == "cuda" and not describe_machine().gpus:
        what = "cuda, but this machine has no NVIDIA GPU that answers"
        fix = "run `tuneplan doctor`, or use the CPU"
        problems.append(Problem("device", what, "auto, cpu", fix))
    if problems:
        raise InputError(problems)


def stop(run: Run, *, grace_seconds: float = 30, now: bool = False) -> RunStatus:
    """Stop a run and return how it ended, or how it goes where it is still at its step.

    The worker is asked to stop at the end of its step. A probe that has not done so within the
    grace period is ended by force. Others are left to it: what they have learned would be lost.

    Args:
        run: What to stop.
        grace_seconds: How long to wait for it.
        now: End whatever it is by force, without waiting.
    """
    status = run.status()
    if status.is_final:
        return status
    run.request_stop()
    status = _wait_for_end(run, 0 if now else grace_seconds)
    worker = None if status.is_final else status.worker()
    if worker is None or not (now or status.kind == "probe"):
        return status
    for end in (worker.terminate, worker.kill):
        try:
            end()
        except psutil.NoSuchProcess:
            break
        status = _wait_for_end(run, TERM_SECONDS)
        if status.is_final:
            return status
    return run.status()


def wait(run: Run, on_change: Callable[[RunStatus], None] | None = None) -> RunStatus:
    """Wait until a run is over, calling ``on_change`` with each new status, and return the last."""
    seen = None
    while True:
        status = run.status()
        if status != seen and on_change:
            on_change(status)
        if status.is_final:
            return status
        seen = status
        time.sleep(0.1)


def dry_run(
    plan: FineTunePlan,
    *,
    device: Literal["cuda", "cpu"] = "cuda",
    on_progress: Callable[[str], None] | None = None,
    module: str = "trainer.dryrun",
) -> MemoryEstimate:
    """Return the dry run's reading of a plan, made in a process of its own or made before.

    Args:
        plan: The step to read.
        device: Whose allocator and kernels to model.
        on_progress: Called with what the dry run is doing, in words for people.
        module: The Python module that does the work.

    Raises:
        InputError: The plan cannot be run (an unknown model, for example).
        WorkerFailed: The process broke.
    """
    if known := find_dry_run(plan, device):
        return known
    status, answer, log = run_worker(
        module, json.dumps({"plan": plan.to_document(), "device": device}), on_progress
    )
    if status == 0:
        try:
            found = MemoryEstimate.model_validate_json(answer)
        except ValidationError as error:
            raise WorkerFailed(f"the dry run answered {answer[-200:]!r}") from error
        keep_dry_run(found)
        return found
    if status == 2 and (problems := problems_in(answer)):
        raise InputError(problems)
    reason = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    said = f": {log[-1].strip()}" if log else ""
    raise WorkerFailed(f"the dry run of {plan.model} {reason}{said}", log)


def run_worker(
    module: str, question: str, progress: Callable[[str], None] | None
) -> tuple[int, str, list[str]]:
    """Return a worker's exit status, its answer on stdout and the end of its log on stderr."""
    log: deque[str] = deque(maxlen=20)
    # Files, not pipes: neither side can then block on the other.
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answered:
        asked.write(question.encode())
        asked.seek(0)
        with subprocess.Popen(
            worker_command(module),
            stdin=asked,
            stdout=answered,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=worker_environment(),
        ) as process:
            try:
                for line in process.stderr or ():
                    if not line.startswith(_PROGRESS):
                        log.append(line.rstrip())
                    elif progress:
                        progress(line.removeprefix(_PROGRESS).strip())
            except BaseException:
                process.kill()
                raise
        answered.seek(0)
        return process.returncode, answered.read().decode(errors="replace"), list(log)


def problems_in(answer: str) -> list[Problem]:
    """Return the problems that a worker's answer lists; none where it is no such answer."""
    try:
        found: dict[str, Any] = json.loads(answer)
        return [Problem(**problem) for problem in found["problems"]]
    except (ValueError, KeyError, TypeError):
        return []


def _wait_for_end(run: Run, seconds: float) -> RunStatus:
    deadline = time.monotonic() + seconds
    while True:
        status = run.status()
        if status.is_final or time.monotonic() >= deadline:
            return status
        time.sleep(0.05)


def worker_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a worker module in this Python."""
    # -P: a module of the user's own folder must not take the place of one of ours.
    return [sys.executable, "-P", "-m", module, *arguments]


def worker_environment() -> dict[str, str]:
    """Return the environment in which workers run."""
    path = os.environ.get("PYTHONPATH")
    # Threads that wait for work must sleep: on a busy machine spinning made steps 30 times slower.
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_PROJECT), *([path] if path else [])]),
    }
