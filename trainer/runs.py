"""A run's folder: what was asked, how it goes, what came out; readable without tuneplan.

``plan.json``, ``request.json``, ``status.json``, ``metrics.jsonl``, ``log.txt``, ``result.json``
and, once somebody asked for it, an empty ``stop``. The worker writes, everybody else reads; who
started the worker leaves in ``worker.json`` which process it is, for the time until it writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
import psutil
from pydantic import BaseModel, ValidationError

from estimator.documents import read_text, write_atomic
from estimator.problems import InputError, Problem
from trainer.results import ProbeRequest, ProbeResult
from trainer.run_status import RunStatus, State, process_identity

MIN_FREE_BYTES = 100 * 2**20
"""Disk space that must be free before a run is begun: its log and metrics, with room to spare."""

START_PATIENCE_SECONDS = 60
"""How long a run may stay without any worker before it counts as never begun."""

_MAX_ROW_BYTES = 1024
"""More than a line of metrics ever takes."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Run:
    """One run, read from its folder each time it is asked."""

    folder: Path

    @property
    def id(self) -> str:
        """The folder's name: start time, model, method and a few random digits."""
        return self.folder.name

    def request(self) -> ProbeRequest:
        """Return what was asked for.

        Raises:
            InputError: ``request.json`` is missing or damaged.
        """
        return _read(ProbeRequest, self.folder / "request.json")

    def status(self) -> RunStatus:
        """Return how the run goes; a run whose worker is gone is written down as failed."""
        status = self._written_status()
        if status.is_final or not _is_abandoned(status):
            return status
        status = self._written_status()  # the worker may have ended well since the first look
        if status.is_final:
            return status
        status = self._ended(status)
        with contextlib.suppress(OSError):  # a folder we may only read is still worth reading
            _write(self.folder / "status.json", status)
        return status

    def _written_status(self) -> RunStatus:
        try:
            status = _read(RunStatus, self.folder / "status.json")
            worker = self.folder / "worker.json"
            if status.pid is not None or not worker.exists():
                return status
            return status.model_copy(update=json.loads(read_text(worker)))
        except InputError as error:
            return self._unreadable(str(error))

    def _unreadable(self, reason: str) -> RunStatus:
        try:
            then = datetime.fromtimestamp(self.folder.stat().st_mtime, UTC)
        except FileNotFoundError:
            then, reason = datetime.now(UTC), f"its folder is gone: {self.folder}"
        return RunStatus(state="failed", heartbeat=then, started_at=then, reason=reason)

    def _ended(self, status: RunStatus) -> RunStatus:
        """What to say of a run whose worker is gone without a word."""
        age = (datetime.now(UTC) - status.heartbeat).total_seconds()
        seen = f"last heard of at {status.heartbeat:%Y-%m-%d %H:%M:%S} UTC, {age:.0f} s before"
        log = self.log_tail(1)
        said = f"; last log line: {log[-1].strip()}" if log else ""
        state: State = "failed"
        if (self.folder / "stop").exists():
            state = "stopped"
            why = f"the worker was ended while at: {status.activity}"
        elif status.pid is None:
            why = f"no worker ever began ({seen} this was noticed)"
        else:
            cause = "killed from outside, out of memory or power loss"
            why = (
                f"the worker (pid {status.pid}) is gone: {cause}; "
                f"it was at: {status.activity} ({seen} this was noticed)"
            )
        change = {"state": state, "reason": why + said, "ended_at": status.heartbeat}
        return status.model_copy(update=change)

    def metrics(self, *, last: int | None = None) -> list[dict[str, Any]]:
        """Return one mapping per step so far; a last line that is not whole yet is left out.

        Args:
            last: Only this many of the newest steps; what came before is not read.
        """
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as stream:
            if last is not None and path.stat().st_size > last * _MAX_ROW_BYTES:
                stream.seek(-last * _MAX_ROW_BYTES, os.SEEK_END)
                stream.readline()  # most likely the end of a line
            lines = stream.read().split(b"\n")[:-1]
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:  # torn by a crash: nothing after it can be trusted
                break
        return rows if last is None else rows[-last:]

    def result(self) -> ProbeResult | None:
        """Return what the run found, or None where it has found nothing (yet).

        Raises:
            InputError: ``result.json`` is damaged, or from another version of tuneplan.
        """
        path = self.folder / "result.json"
        return _read(ProbeResult, path) if path.exists() else None

    def log_tail(self, num_lines: int = 20) -> list[str]:
        """Return the last lines that the worker wrote, without empty ones."""
        path = self.folder / "log.txt"
        if not path.exists():
            return []
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 2**16))
            text = stream.read().decode("utf-8", errors="replace")
        return [line for line in text.splitlines() if line.strip()][-num_lines:]

    def request_stop(self) -> None:
        """Ask the worker to stop at the end of its step."""
        (self.folder / "stop").touch()


class RunWriter:
    """The worker's side of a run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        written = _read(RunStatus, folder / "status.json")
        self._status = written.model_copy(update=process_identity(psutil.Process()))

    def status(self, **changes: Any) -> None:
        """Write how the run goes: the last status with ``changes``, and a new heartbeat."""
        now = datetime.now(UTC)
        record = self._status.model_dump() | {"heartbeat": now} | changes
        self._status = RunStatus.model_validate(record)
        if self._status.is_final and self._status.ended_at is None:
            self._status = self._status.model_copy(update={"ended_at": now})
        _write(self.folder / "status.json", self._status)

    def metric(self, row: dict[str, Any]) -> None:
        """Append one step's measurements, with the time, as one line of JSON."""
        line = json.dumps({"time": datetime.now(UTC).isoformat()} | row)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def result(self, result: ProbeResult) -> None:
        """Write what the run found."""
        _write(self.folder / "result.json", result)

    def stop_requested(self) -> bool:
        """Return whether somebody asked the run to stop."""
        return (self.folder / "stop").exists()


def runs_folder() -> Path:
    """Return where runs are kept: ``$TUNEPLAN_HOME/runs``, or the user's data folder."""
    home = os.environ.get("TUNEPLAN_HOME")
    base = Path(home) if home else platformdirs.user_data_path("tuneplan", appauthor=False)
    return base / "runs"


def create_run(request: ProbeRequest) -> Run:
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
        _write(temporary / "plan.json", request.plan)
        _write(temporary / "request.json", request)
        status = RunStatus(num_steps=request.num_steps, heartbeat=now, started_at=now)
        _write(temporary / "status.json", status)
        return Run(temporary.rename(parent / _new_id(request, parent)))
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        what = f"no run can be written there ({error.strerror})"
        raise InputError(Problem(str(parent), what, fix=fix)) from error


def record_worker(run: Run, pid: int) -> None:
    """Write down which process works on a run, in a file that the worker does not write."""
    with contextlib.suppress(psutil.NoSuchProcess):  # gone already, having said why or not
        who = process_identity(psutil.Process(pid))
        write_atomic(run.folder / "worker.json", json.dumps(who) + "\n")


def list_runs() -> list[Run]:
    """Return every run on this machine, newest first."""
    statuses = runs_folder().glob("[!.]*/status.json")
    return sorted((Run(path.parent) for path in statuses), key=lambda run: run.id, reverse=True)


def find_run(name: str) -> Run:
    """Return the run whose id is, or alone begins with, ``name``; ``latest`` is the newest.

    Raises:
        InputError: No run, or more than one, is meant.
    """
    runs = list_runs()
    if name == "latest" and runs:
        return runs[0]
    found = [run for run in runs if run.id == name] or [r for r in runs if r.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} runs begin so" if found else f"no such run in {runs_folder()}"
    allowed = ", ".join(run.id for run in (found or runs)[:5])
    fix = "see `tuneplan runs list`" if runs else "start one with `tuneplan probe PLAN`"
    raise InputError(Problem(f"run {name!r}", what, allowed and f"latest, {allowed}", fix))


def _is_abandoned(status: RunStatus) -> bool:
    if status.pid is None:
        age = (datetime.now(UTC) - status.started_at).total_seconds()
        return age > START_PATIENCE_SECONDS
    return status.is_ours and status.worker() is None


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        what = f"the disk has {free / 2**20:.0f} MiB free"
        allowed = f"{MIN_FREE_BYTES / 2**20:.0f} MiB or more"
        fix = "free some space, or set TUNEPLAN_HOME to a folder on another disk"
        raise InputError(Problem(str(folder), what, allowed, fix))


def _new_id(request: ProbeRequest, parent: Path) -> str:
    model = Path(request.plan.model.rstrip("/")).name.lower().removesuffix(".json")
    slug = re.sub(r"[^a-z0-9.]+", "-", model)[:40].strip("-.") or "model"
    second = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    while True:
        name = f"{second}-{slug}-{request.plan.method}-{secrets.token_hex(1)}"
        if not (parent / name).exists():
            return name


def _read(model: type[Model], path: Path) -> Model:
    try:
        return model.model_validate_json(read_text(path))
    except ValidationError as error:
        what = f"is damaged, or from another version of tuneplan ({error.error_count()} problems)"
        raise InputError(Problem(str(path), what, fix="start the run again")) from error


def _write(path: Path, record: BaseModel) -> None:
    write_atomic(path, record.model_dump_json(indent=2) + "\n")
