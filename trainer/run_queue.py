"""One run at a time on each device; whoever comes later waits its turn."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from estimator.documents import write_atomic
from trainer.ending import StoppedEarly
from trainer.runs import Run, runs_folder

_POLL_SECONDS = 0.5


@contextlib.contextmanager
def its_turn(
    run: Run,
    device: str,
    *,
    on_wait: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Iterator[None]:
    """Hold a device while the block runs; wait for it before.

    The lock belongs to the process: one that dies, however it dies, holds nothing back.

    Args:
        run: Who wants the device.
        device: Its name, the same for everybody: ``cpu``, or a GPU's identity.
        on_wait: Told who has the device, again whenever that changes.
        should_stop: Asked while waiting.

    Raises:
        StoppedEarly: The run was asked to stop first.
    """
    folder = runs_folder().parent / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9-]+", "-", device)
    lock, holder = FileLock(folder / f"{name}.lock"), folder / f"{name}.txt"
    told = ""
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            who = _holder(holder)
            if who != told:
                on_wait(who)
                told = who
            if should_stop():
                raise StoppedEarly("stopped while it waited for its turn") from None
            time.sleep(_POLL_SECONDS)
    try:
        write_atomic(holder, run.id + "\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(file: Path) -> str:
    """Who has the device; the file is gone between one holder and the next."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return "another run"
