"""The process behind a run: ``python -m trainer.worker RUN_FOLDER``."""

from __future__ import annotations

import errno
import signal
import statistics
import sys
import traceback
from collections import deque
from datetime import timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from estimator.problems import InputError
from trainer import ending
from trainer.finetune_results import FineTuneRequest, FineTuneResult
from trainer.lessons import keep_lesson
from trainer.quiet import quiet_libraries
from trainer.redact import mask_output, mask_secrets
from trainer.requests import Request, Result
from trainer.results import OutOfMemory, ProbeRequest, ProbeResult
from trainer.run_queue import its_turn
from trainer.run_writer import RunWriter
from trainer.runs import Run
from trainer.search_results import SearchRequest, SearchResult

SIGTERM = "SIGTERM"
"""Why a run stops that the system, not a person, asked to."""


def work(folder: Path) -> int:
    """Do what the run's request asks for, and leave its end in the folder.

    Returns:
        The exit status: 0 done, 1 failed or out of memory, 2 the request cannot be met.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            writer = RunWriter(folder)
            with writer.beating():
                return _work(Run(folder), writer)
    except Timeout:
        sys.stderr.write("another worker is at this run already\n")
        return 1


def _work(run: Run, writer: RunWriter) -> int:
    writer.status(state="running", activity="loading libraries")
    try:
        result = _answer(run, run.request(), writer)
    except InputError as error:
        writer.status(state="failed", reason=mask_secrets(str(error)), input_is_wrong=True)
        return 2
    except ending.StoppedEarly as stopped:
        writer.status(state="stopped", reason=str(stopped))
        return 0
    except ending.Ended:
        was_at = run.status().activity
        writer.status(state="stopped", reason=f"ended by force (SIGTERM) while at: {was_at}")
        return 0
    except Exception as error:  # noqa: BLE001  whatever it was, the run must say so
        traceback.print_exc()
        writer.status(state="failed", reason=mask_secrets(_reason(error)))
        return 1
    writer.result(result)
    if isinstance(result, SearchResult):
        return _search_ended(result, writer)
    return _ended(result, writer)


def _ended(result: ProbeResult | FineTuneResult, writer: RunWriter) -> int:
    if result.out_of_memory:
        writer.status(state="out_of_memory", reason=_too_large(result.out_of_memory))
        return 1
    state = "stopped" if result.stopped_early else "finished"
    kept = "told to end (SIGTERM): what was done until then is kept"
    was_told = ending.is_asked() or writer.stop_reason() == SIGTERM
    reason = kept if was_told and result.stopped_early else ""
    writer.status(state=state, activity=f"{result.num_steps} steps done", reason=reason)
    return 0


def _search_ended(result: SearchResult, writer: RunWriter) -> int:
    """A search has done its work where it has completed a trial."""
    if result.best is None and not result.stopped_early:
        writer.status(state="failed", reason=result.sentence)
        return 1
    state = "stopped" if result.stopped_early else "finished"
    done = f"{len(result.trials)} of {result.num_trials} trials done"
    writer.status(state=state, activity=done, step=len(result.trials))
    return 0


def _too_large(shortage: OutOfMemory) -> str:
    asked = shortage.requested_bytes  # the allocator's own words are in the result
    lacking = "" if asked is None else f": it asked for {asked / 2**20:,.1f} MiB more"
    return f"it did not fit in the {shortage.phase} phase{lacking}"


def _reason(error: Exception) -> str:
    """What went wrong, and what to do where that is known."""
    said = " ".join(str(error).split())
    full = "the disk is full", "No space left on device"  # the latter from safetensors, in Rust
    if getattr(error, "errno", None) == errno.ENOSPC or any(sign in said for sign in full):
        known = said if "the disk is full" in said else f"the disk is full ({said})"
        return f"{known}; free some space, then resume or start again"
    if type(error).__name__ == "Diverged":
        return f"{said}: lower schedule.learning_rate, or look for broken examples"
    return f"{type(error).__name__}: {said}"


def _answer(run: Run, request: Request, writer: RunWriter) -> Result:
    if isinstance(request, SearchRequest):  # its trials need the device, it does not
        from trainer.search import run_search

        return run_search(request, run, writer)
    from trainer.device import choose_device, lock_name

    device = choose_device(request.device)
    queue = its_turn(
        run,
        lock_name(device),
        on_wait=lambda who: writer.status(state="queued", activity=f"waiting for {who}"),
        should_stop=writer.stop_requested,
    )
    with queue:
        writer.status(state="running")
        if isinstance(request, FineTuneRequest):
            return _finetune(request, device, writer)
        return _probe(request, writer)


def _probe(request: ProbeRequest, writer: RunWriter) -> Result:
    from trainer.probe import Observer, run_probe

    def on_step(row: dict[str, Any]) -> None:
        writer.metric(row)
        step = row["step"]
        writer.status(step=step, activity=f"step {step} of {request.num_steps}")

    observer = Observer(
        on_activity=lambda text: writer.status(activity=text),
        on_step=on_step,
        should_stop=lambda: ending.is_asked() or writer.stop_requested(),
    )
    result = run_probe(request, observer)
    keep_lesson(result, memory_limit_gib=request.memory_limit_gib)
    return result


def _finetune(request: FineTuneRequest, device: Any, writer: RunWriter) -> Result:
    from trainer.finetune import Onlooker, run_finetune

    def on_signal(*_: Any) -> None:
        """Stop at the step's end, with a checkpoint; told so again, at once."""
        Run(writer.folder).request_stop(SIGTERM)
        ending.listen()

    total = 0
    seconds: deque[float] = deque(maxlen=50)

    def on_total(num_steps: int) -> None:
        nonlocal total
        total = num_steps
        writer.status(num_steps=num_steps)

    def on_row(row: dict[str, Any]) -> None:
        writer.metric(row)
        if "step_seconds" in row:
            seconds.append(row["step_seconds"])
        if not seconds:  # taken up at an evaluation
            return
        step = row["step"]
        left = timedelta(seconds=round(statistics.median(seconds) * (total - step)))
        writer.status(step=step, activity=f"step {step} of {total}, {left} left")

    signal.signal(signal.SIGTERM, on_signal)
    onlooker = Onlooker(
        on_activity=lambda text: writer.status(activity=text),
        on_row=on_row,
        on_num_steps=on_total,
        should_stop=writer.stop_requested,
    )
    return run_finetune(request, writer.folder, device, onlooker)


if __name__ == "__main__":
    mask_output()
    quiet_libraries()
    ending.listen()
    sys.exit(work(Path(sys.argv[1])))
