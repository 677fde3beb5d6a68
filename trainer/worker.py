"""The process behind a run: ``python -m trainer.worker RUN_FOLDER``."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

from estimator.problems import InputError
from trainer import ending
from trainer.quiet import quiet_libraries
from trainer.results import ProbeRequest, ProbeResult
from trainer.runs import Run, RunWriter


def work(folder: Path) -> int:
    """Do what the run's request asks for, and leave its end in the folder.

    Returns:
        The exit status: 0 done, 1 failed or out of memory, 2 the request cannot be met.
    """
    writer = RunWriter(folder)
    request = Run(folder).request()
    writer.status(state="running", activity="loading libraries")
    try:
        result = _probe(request, writer)
    except InputError as error:
        writer.status(state="failed", reason=str(error), input_is_wrong=True)
        return 2
    except ending.Ended:
        writer.status(state="stopped", reason="ended by force, before anything was measured")
        return 0
    except Exception as error:  # noqa: BLE001  whatever it was, the run must say so
        traceback.print_exc()
        writer.status(state="failed", reason=f"{type(error).__name__}: {error}")
        return 1
    writer.result(result)
    if result.out_of_memory:
        writer.status(state="out_of_memory", reason=result.out_of_memory.message)
        return 1
    state = "stopped" if result.stopped_early else "finished"
    kept = "told to end (SIGTERM): what was measured until then is kept"
    reason = kept if ending.is_asked() else ""
    writer.status(state=state, activity=f"{result.num_steps} steps done", reason=reason)
    return 0


def _probe(request: ProbeRequest, writer: RunWriter) -> ProbeResult:
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
    return run_probe(request, observer)


if __name__ == "__main__":
    quiet_libraries()
    ending.listen()
    sys.exit(work(Path(sys.argv[1])))
