"""How a run goes, and whether the process that works on it is still there."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict

State = Literal["starting", "queued", "running", "finished", "stopped", "failed", "out_of_memory"]
FINAL_STATES: tuple[State, ...] = ("finished", "stopped", "failed", "out_of_memory")

_START_TOLERANCE_SECONDS = 0.02
"""Two ticks of the system's clock; a recycled pid is off by more."""


class RunStatus(BaseModel):
    """How a run goes. Times are UTC.

    Attributes:
        kind: What the run is: a probe, a fine-tune, a search.
        pid_started: The worker's start in seconds, by a clock that nobody sets (:func:`started`).
        activity: What the worker is doing, in words for people ("dry run", "step 3 of 6").
        step: Steps done.
        seconds_before: What earlier workers took, of a run that was taken up again.
        heartbeat: When the worker last wrote.
        reason: Why it failed or ended early, "" otherwise.
        input_is_wrong: Whether it failed because what was asked for cannot be done.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    state: State = "starting"
    kind: str = "probe"
    activity: str = "starting"
    step: int = 0
    num_steps: int = 0
    pid: int | None = None
    pid_started: float | None = None
    host: str = ""
    heartbeat: datetime
    started_at: datetime
    seconds_before: float = 0.0
    ended_at: datetime | None = None
    reason: str = ""
    input_is_wrong: bool = False

    @property
    def is_final(self) -> bool:
        """Whether the run is over."""
        return self.state in FINAL_STATES

    @property
    def seconds(self) -> float:
        """How long the run took, or has been going."""
        seconds = (
            self.seconds_before
            + ((self.ended_at or datetime.now(UTC)) - self.started_at).total_seconds()
        )
        return max(0.0, seconds)  # somebody may have set the clock back

    @property
    def is_ours(self) -> bool:
        """Whether the worker is a process of this machine (run folders may be shared)."""
        return self.host == socket.gethostname()

    def worker(self) -> psutil.Process | None:
        """Return the worker's process, or None where it is gone (or lives on another machine)."""
        if self.pid is None or self.pid_started is None or not self.is_ours:
            return None
        try:
            process = psutil.Process(self.pid)
            drift = abs(started(process) - self.pid_started)
            is_zombie = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.NoSuchProcess:
            return None
        return None if is_zombie or drift > _START_TOLERANCE_SECONDS else process


def process_identity(process: psutil.Process) -> dict[str, Any]:
    """Return what tells a worker from any later process with the same pid."""
    host = socket.gethostname()
    return {"pid": process.pid, "pid_started": started(process), "host": host}


def started(process: psutil.Process) -> float:
    """Return when a process started: seconds since boot on Linux, Unix time elsewhere.

    Linux knows the time of day of a start only by way of the clock, and moves it with the clock.

    Raises:
        psutil.NoSuchProcess: It is gone.
    """
    if not psutil.LINUX:
        return process.create_time()
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise psutil.NoSuchProcess(process.pid) from error
    ticks = stat.rpartition(")")[2].split()[19]  # field 22; a name in brackets comes before
    return int(ticks) / os.sysconf("SC_CLK_TCK")
