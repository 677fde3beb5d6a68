"""A run's folder: what was asked, how it goes, what came out; readable without tuneplan.

``plan.json``, ``request.json``, ``status.json``, ``metrics.jsonl``, ``log.txt``, ``result.json``
and, once somebody asked for it, an empty ``stop``; a fine-tune adds ``checkpoints`` and ``model``.
The worker writes, everybody else reads; who started the worker leaves in ``worker.json`` which
process it is, for the time until it writes.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from pydantic import BaseModel, ValidationError

from estimator.documents import read_text, write_atomic
from estimator.problems import InputError, Problem
from trainer.finetune_results import FineTuneRequest
from trainer.requests import Request, RequestFile, Result, ResultFile
from trainer.run_status import RunStatus, State

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

    def request(self) -> Request:
        """Return what was asked for.

        Raises:
            InputError: ``request.json`` is missing or damaged.
        """
        return read_record(RequestFile, self.folder / "request.json").root

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
            write_record(self.folder / "status.json", status)
        return status

    def _written_status(self) -> RunStatus:
        try:
            status = read_record(RunStatus, self.folder / "status.json")
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
        seen = f"last heard of at {status.heartbeat:%Y-%m-%d %H:%M:%S} UTC"
        if age >= 0:  # else somebody set the clock back
            seen += f", {age:.0f} s before this was noticed"
        log = self.log_tail(1)
        said = f"; last log line: {log[-1].strip()}" if log else ""
        state: State = "failed"
        if (self.folder / "stop").exists():
            state = "stopped"
            why = f"the worker was ended while at: {status.activity}"
        elif status.pid is None:
            why = f"no worker ever began ({seen})"
        else:
            cause = "killed from outside, out of memory or power loss"
            why = (
                f"the worker (pid {status.pid}) is gone: {cause}; "
                f"it was at: {status.activity} ({seen})"
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

    def result(self) -> Result | None:
        """Return what the run found, or None where it has found nothing (yet).

        Raises:
            InputError: ``result.json`` is damaged, or from another version of tuneplan.
        """
        path = self.folder / "result.json"
        return read_record(ResultFile, path).root if path.exists() else None

    def log_tail(self, num_lines: int = 20) -> list[str]:
        """Return the last lines that the worker wrote, without empty ones."""
        path = self.folder / "log.txt"
        if not path.exists():
            return []
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 2**16))
            text = stream.read().decode("utf-8", errors="replace")
        return [line for line in text.splitlines() if line.strip()][-num_lines:]

    def request_stop(self, why: str = "") -> None:
        """Ask the worker to stop at the end of its step."""
        (self.folder / "stop").write_text(why)


def runs_folder() -> Path:
    """Return where runs are kept: ``$TUNEPLAN_HOME/runs``, or the user's data folder."""
    home = os.environ.get("TUNEPLAN_HOME")
    base = Path(home) if home else platformdirs.user_data_path("tuneplan", appauthor=False)
    return base / "runs"


def list_runs() -> list[Run]:
    """Return every run on this machine, newest first."""
    statuses = runs_folder().glob("[!.]*/status.json")
    return sorted((Run(path.parent) for path in statuses), key=lambda run: run.id, reverse=True)


def find_run(name: str) -> Run:
    """Return the run whose id is, or alone begins with, ``name``; ``latest`` is the newest.

    Trials of a search are passed over there: who asks for the latest means the search.

    Raises:
        InputError: No run, or more than one, is meant.
    """
    runs = list_runs()
    if name == "latest" and runs:
        return next((run for run in runs if not _is_trial(run)), runs[0])
    found = [run for run in runs if run.id == name] or [r for r in runs if r.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} runs begin so" if found else f"no such run in {runs_folder()}"
    some = found or runs
    allowed = ", ".join([*(run.id for run in some[:5]), *["..."] * (len(some) > 5)])
    fix = "see `tuneplan runs list`" if runs else "start one with `tuneplan probe PLAN`"
    raise InputError(Problem(f"run {name!r}", what, allowed and f"latest, {allowed}", fix))


def _is_trial(run: Run) -> bool:
    try:
        request = run.request()
    except InputError:
        return False
    return isinstance(request, FineTuneRequest) and request.search is not None


def _is_abandoned(status: RunStatus) -> bool:
    if status.pid is None:
        age = (datetime.now(UTC) - status.started_at).total_seconds()
        return abs(age) > START_PATIENCE_SECONDS  # below zero where the clock was set back
    return status.is_ours and status.worker() is None


def read_record(model: type[Model], path: Path) -> Model:
    """Return a record that a run's folder holds.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        return model.model_validate_json(read_text(path))
    except ValidationError as error:
        what = f"is damaged, or from another version of tuneplan ({error.error_count()} problems)"
        raise InputError(Problem(str(path), what, fix="start the run again")) from error


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record so that a reader sees the old one or the new, never a part."""
    write_atomic(path, record.model_dump_json(indent=2) + "\n")
