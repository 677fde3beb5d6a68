"""The largest micro-batch that really runs: each try in a process of its own. Without torch."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable

import psutil
from pydantic import ValidationError

from estimator.estimate import CONTEXT_ASSUMED_BYTES, Device, MemoryEstimate
from estimator.gpus import GIB
from estimator.plan import FineTunePlan
from estimator.reader import Confirm, Reader
from estimator.search import largest_that_fits
from trainer.launch import worker_command, worker_environment
from trainer.machine import describe_machine
from trainer.probe_inputs import CPU_OVERHEAD_BYTES
from trainer.results import BatchSearch, BatchTry, ProbeRequest

_MOST = 1_000_000
"""The largest micro-batch that a plan can have."""

_MAX_DRY_RUNS = 4
"""For the prediction, guided by the formula where it holds: it only says where to begin."""

_POLL_SECONDS = 0.1


def find_batch(
    request: ProbeRequest,
    confirm: Confirm,
    *,
    on_activity: Callable[[str], None],
    should_stop: Callable[[], bool],
    num_rows: int | None = None,
    module: str = "trainer.batch_try",
) -> BatchSearch:
    """Try micro-batches at the plan's full length until the largest that runs is known.

    The search begins where the estimate says that it ends, and goes on from there in steps that
    double, then halve what is left between one that runs and one that does not.

    Args:
        request: The plan, its other keys as they stay, the device and the memory limit.
        confirm: Makes a dry run, for the prediction.
        on_activity: Told of each try.
        should_stop: Asked all the while.
        num_rows: How many rows the data fills: no larger micro-batch is tried.
        module: The Python module that makes one try.
    """
    started = time.perf_counter()
    on_activity("predicting the largest micro-batch")
    predicted = _predicted(request, confirm)
    tries: list[BatchTry] = []
    most = min(_MOST, num_rows or _MOST)

    def runs(size: int) -> bool | None:
        on_activity(f"try {len(tries) + 1}: micro-batch {size}{_said(tries)}")
        plan = request.plan.changed(micro_batch_size=size)
        made = _try(request.model_copy(update={"plan": plan}), module, should_stop)
        if made is None:
            return None
        tries.append(made)
        return made.ran

    largest, is_exact = largest_running(runs, predicted or request.plan.micro_batch_size, most)
    return BatchSearch(
        predicted=predicted,
        largest=largest,
        is_exact=is_exact,
        tries=tuple(tries),
        seconds=time.perf_counter() - started,
        num_rows=num_rows,
    )


def largest_running(
    runs: Callable[[int], bool | None], first: int, most: int = _MOST
) -> tuple[int | None, bool]:
    """Return the largest number that runs, and whether the next larger one is known not to.

    Args:
        runs: Tries a number; None where somebody wants to stop.
        first: Where to begin.
        most: The largest number to try.
    """
    low, high = 0, most + 1  # low runs, high does not
    at, stride = min(first, most), 1
    while True:
        answer = runs(at)
        if answer is None:
            return low or None, False
        low, high = (at, high) if answer else (low, at)
        if high - low <= 1:
            return low or None, True
        if high > most:
            at = min(low + stride, most)
        elif low == 0:
            at = max(high - stride, 1)
        else:
            at = (low + high) // 2
        stride *= 2


def _predicted(request: ProbeRequest, confirm: Confirm) -> int | None:
    gpus = describe_machine().gpus if request.device != "cpu" else ()
    kind: Device = "cuda" if gpus else "cpu"
    limit = None if request.memory_limit_gib is None else round(request.memory_limit_gib * GIB)
    if gpus:
        free = gpus[0].free_bytes or request.plan.gpu_spec.memory_bytes
        # On CUDA the limit is the allocator's: the context comes on top.
        capacity = free if limit is None else min(free, limit + CONTEXT_ASSUMED_BYTES)
    else:
        available = psutil.virtual_memory().available
        # On a CPU the limit also holds what the worker takes beside its tensors.
        capacity = (available if limit is None else min(available, limit)) - CPU_OVERHEAD_BYTES
    reader = Reader(confirm=confirm, device=kind, dry_runs_left=_MAX_DRY_RUNS)

    def needs(read: Callable[[FineTunePlan], MemoryEstimate | None], size: int) -> int | None:
        estimate = read(request.plan.changed(micro_batch_size=size))
        if estimate is None:
            return None
        return estimate.smallest_need_bytes if gpus else estimate.peak_allocated_bytes

    has_formula = reader.formula(request.plan) is not None
    return largest_that_fits(
        lambda size: needs(reader.dry_run, size),
        capacity,
        most=_MOST,
        first=request.plan.micro_batch_size,
        expected_bytes=(lambda size: needs(reader.formula, size)) if has_formula else None,
        max_readings=_MAX_DRY_RUNS,
    ).value


def _said(tries: list[BatchTry]) -> str:
    if not tries:
        return ""
    last = tries[-1]
    return f" ({last.micro_batch_size} {'runs' if last.ran else 'does not run'})"


def _try(request: ProbeRequest, module: str, should_stop: Callable[[], bool]) -> BatchTry | None:
    """Return what came of a try, None where it was stopped.

    Raises:
        RuntimeError: It broke for another reason than memory; what it wrote is in the log.
    """
    size = request.plan.micro_batch_size
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answered:
        asked.write(request.model_dump_json().encode())
        asked.seek(0)
        process = subprocess.Popen(
            worker_command(module), stdin=asked, stdout=answered, env=worker_environment()
        )
        try:
            while process.poll() is None:
                if should_stop():
                    return None
                time.sleep(_POLL_SECONDS)
        finally:  # stopped, or ended by a signal: nobody waits for this try any more
            process.kill()
            process.wait()
        if process.returncode < 0:
            reason = f"ended by signal {-process.returncode}: most likely the system ran short"
            return BatchTry(micro_batch_size=size, ran=False, reason=reason)
        answered.seek(0)
        try:
            return BatchTry.model_validate_json(answered.read())
        except ValidationError as error:
            what = f"the try of micro-batch {size} broke with status {process.returncode}"
            raise RuntimeError(f"{what}; its error is in the log") from error
