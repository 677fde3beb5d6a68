"""One trial of a search: a fine-tune in a run of its own, begun, watched and cleaned up after."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from estimator.documents import read_text, write_atomic
from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer import launch
from trainer.finetune_results import FineTuneRequest, FineTuneResult
from trainer.machine import describe_machine
from trainer.run_status import RunStatus
from trainer.runs import Run, list_runs
from trainer.search_results import SearchRequest

LARGE = ("model", "checkpoints", "tokens")
"""What of a beaten trial's folder is deleted; figures, log, plan and result stay."""

_POLL_SECONDS = 0.2
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Ending:
    """How a trial's run ended."""

    status: RunStatus
    validations: list[float]
    diverged: bool
    result: FineTuneResult | None

    @property
    def took_all_steps(self) -> bool:
        """Whether nothing was left to do when it ended."""
        return self.result is not None and self.result.num_steps >= self.result.total_steps > 0


def start(request: SearchRequest, plan: FineTunePlan, search: Run, number: int) -> Run:
    """Begin a trial's run.

    What the model could do before training is the same for every trial: it is measured once.

    Raises:
        InputError: The plan, the data or the device cannot be used.
    """
    run = launch.start(request.finetune(plan, search=search.id, trial=number))
    known = search.folder / "before.json"
    if known.exists():  # its worker looks only once torch and the data are loaded
        write_atomic(run.folder / known.name, read_text(known))
    return run


def find(search: Run, number: int) -> Run | None:
    """Return the run that was begun for a trial, if any."""
    for run in list_runs():
        with contextlib.suppress(InputError):  # another's folder may be damaged
            request = run.request()
            if not isinstance(request, FineTuneRequest):
                continue
            if (request.search, request.trial) == (search.id, number):
                return run
    return None


def watch(
    run: Run,
    *,
    on_change: Callable[[RunStatus], None],
    should_prune: Callable[[list[float]], bool],
    should_stop: Callable[[], bool],
    on_prune: Callable[[], None],
) -> Ending:
    """Watch a trial's run to its end.

    Args:
        run: The trial's.
        on_change: Called with each new status.
        should_prune: Asked after each validation, with all losses so far.
        should_stop: Asked again and again; if so the run is stopped at its step's end.
        on_prune: Called before the run is stopped because it should be pruned.
    """
    seen, num_validations = None, 0
    while True:
        status = run.status()
        validations = validations_of(run)
        if status.is_final:
            return ending(run, status)
        if status != seen:
            on_change(status)
            seen = status
        if len(validations) > num_validations:
            num_validations = len(validations)
            if should_prune(validations):
                on_prune()
                run.request_stop()
        if should_stop():
            run.request_stop()
        time.sleep(_POLL_SECONDS)


def ending(run: Run, status: RunStatus) -> Ending:
    """Return how a run ended that is over."""
    rows = run.metrics()
    result = run.result()
    return Ending(
        status=status,
        validations=validations_of(run),
        diverged=status.state == "failed" and bool(rows) and rows[-1].get("loss", 0) is None,
        result=result if isinstance(result, FineTuneResult) else None,
    )


def validations_of(run: Run) -> list[float]:
    """Return the validation losses of a run so far."""
    return [row["validation_loss"] for row in run.metrics() if "validation_loss" in row]


def keep_before(run: Run, search: Run) -> None:
    """Keep what a trial measured before training, for the trials that come."""
    found, kept = run.folder / "before.json", search.folder / "before.json"
    if found.exists() and not kept.exists():
        write_atomic(kept, read_text(found))


def delete_large(run: Run) -> None:
    """Delete what takes much disk of a trial that is not the best."""
    for name in LARGE:
        shutil.rmtree(run.folder / name, ignore_errors=True)


def too_large(plan: FineTunePlan, capacity_bytes: int | None) -> str:
    """Return why a plan does not fit, by the formula, with the numbers; "" where it may.

    Args:
        plan: What a trial would train.
        capacity_bytes: The GPU's memory; None where that is not known, or there is no GPU.
    """
    if capacity_bytes is None:
        return ""
    try:
        needed = read_formula(plan).smallest_need_bytes
    except NoFormula:
        return ""
    if needed <= capacity_bytes:
        return ""
    return (
        f"it needs {needed / _GIB:.1f} GiB by the formula, and there are "
        f"{capacity_bytes / _GIB:.1f} GiB"
    )


def capacity_bytes(request: SearchRequest) -> int | None:
    """Return the memory of the GPU that trials run on; None on a CPU, or where nobody knows."""
    gpus = () if request.device == "cpu" else describe_machine().gpus
    memory = gpus[0].memory_bytes if gpus else None
    if memory is None or request.memory_limit_gib is None:
        return memory
    return min(memory, round(request.memory_limit_gib * _GIB))
