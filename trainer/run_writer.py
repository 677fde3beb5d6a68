"""The writing side of a run's folder: making one, and what its worker puts down."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel

from estimator.documents import write_atomic
from estimator.problems import InputError, Problem
from trainer.requests import Request
from trainer.results import ProbeRequest
from trainer.run_status import RunStatus, process_identity
from trainer.runs import Run, read_record, runs_folder, write_record

MIN_FREE_BYTES = 100 * 2**20
"""Disk space that must be free before a run is begun: its log and metrics, with room to spare."""

HEARTBEAT_SECONDS = 10.0
"""How often a worker says that it is there, however long a step takes."""

_RESERVE_BYTES = 64 * 2**10
"""Kept on the disk by a worker, so that it can say on a full one that it is full."""


class RunWriter:
    """The worker's side of a run folder; safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        written = read_record(RunStatus, folder / "status.json")
        self._status = written.model_copy(update=process_identity(psutil.Process()))

    def status(self, **changes: Any) -> None:
        """Write how the run goes: the last status with ``changes``, and a new heartbeat."""
        with self._lock:
            now = datetime.now(UTC)
            record = self._status.model_dump() | {"heartbeat": now} | changes
            self._status = RunStatus.model_validate(record)
            if self._status.is_final:
                self._reserve.unlink(missing_ok=True)
                if self._status.ended_at is None:
                    self._status = self._status.model_copy(update={"ended_at": now})
            write_record(self.folder / "status.json", self._status)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Write a heartbeat again and again while the block runs, and hold back some disk."""
        self._reserve.write_bytes(os.urandom(_RESERVE_BYTES))
        over = threading.Event()

        def beat() -> None:
            while not over.wait(HEARTBEAT_SECONDS):
                with contextlib.suppress(OSError):  # a full disk is the main thread's to tell
                    self.status()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @property
    def _reserve(self) -> Path:
        return self.folder / ".reserve"

    def metric(self, row: dict[str, Any]) -> None:
        """Append one step's measurements, with the time, as one line of JSON."""
        line = json.dumps({"time": datetime.now(UTC).isoformat()} | row)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def rewind(self, step: int) -> None:
        """Forget the metrics after a step, which will be taken again."""
        rows = [row for row in Run(self.folder).metrics() if row["step"] <= step]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomic(self.folder / "metrics.jsonl", lines)

    def result(self, result: BaseModel) -> None:
        """Write what the run found."""
        write_record(self.folder / "result.json", result)

    def stop_requested(self) -> bool:
        """Return whether somebody asked the run to stop."""
        return (self.folder / "stop").exists()

    def stop_reason(self) -> str:
        """Return what whoever asked the run to stop has left as the reason, mostly nothing."""
        return (self.folder / "stop").read_text() if self.stop_requested() else ""


def create_run(request: Request) -> Run:
    """Make the folder of a new run, which nobody works on yet.

    Raises:
        InputError: The folder cannot be written, or the disk is full; nothing is left behind.
    """
    parent = runs_folder()
    fix = "make it writable, or set TUNEPLAN_HOME to a folder that is"
    temporary = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _check_space(parent)
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix="."))
        temporary.chmod(0o755)
        now = datetime.now(UTC)
        write_record(temporary / "plan.json", request.plan)
        write_record(temporary / "request.json", request)
        num_steps = request.num_steps if isinstance(request, ProbeRequest) else 0
        status = RunStatus(kind=request.kind, num_steps=num_steps, heartbeat=now, started_at=now)
        write_record(temporary / "status.json", status)
        return Run(temporary.rename(parent / _new_id(request, parent)))
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        what = f"no run can be written there ({error.strerror})"
        raise InputError(Problem(str(parent), what, fix=fix)) from error


def again(run: Run) -> None:
    """Make a run that has ended ready for another worker.

    Raises:
        InputError: The disk is full; the run is as it was.
    """
    _check_space(run.folder)
    now = datetime.now(UTC)
    (run.folder / "stop").unlink(missing_ok=True)
    (run.folder / "worker.json").unlink(missing_ok=True)
    old = run.status()
    result = run.folder / "result.json"
    if result.exists():  # of the end before; there will be another
        result.replace(run.folder / "result-before.json")
    fresh = RunStatus(
        kind=old.kind,
        activity="taken up again",
        step=old.step,
        num_steps=old.num_steps,
        heartbeat=now,
        started_at=now,
        seconds_before=old.seconds,
    )
    write_record(run.folder / "status.json", fresh)


def record_worker(run: Run, pid: int) -> None:
    """Write down which process works on a run, in a file that the worker does not write."""
    with contextlib.suppress(psutil.NoSuchProcess):  # gone already, having said why or not
        who = process_identity(psutil.Process(pid))
        write_atomic(run.folder / "worker.json", json.dumps(who) + "\n")


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        what = f"the disk has {free / 2**20:.0f} MiB free"
        allowed = f"{MIN_FREE_BYTES / 2**20:.0f} MiB or more"
        fix = "free some space, or set TUNEPLAN_HOME to a folder on another disk"
        raise InputError(Problem(str(folder), what, allowed, fix))


def _new_id(request: Request, parent: Path) -> str:
    model = Path(request.plan.model.rstrip("/")).name.lower().removesuffix(".json")
    slug = re.sub(r"[^a-z0-9.]+", "-", model)[:40].strip("-.") or "model"
    second = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    while True:
        name = f"{second}-{slug}-{request.plan.method}-{secrets.token_hex(2)}"
        if not (parent / name).exists():
            return name
