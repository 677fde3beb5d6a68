"""The answer to out of memory: which changes make the plan fit, and who else holds the GPU."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

from estimator.changes import Training, with_keys
from estimator.estimate import Device, MemoryEstimate
from estimator.fit import WeighedChange, changes_that_fit, stack_changes
from estimator.plan import FineTunePlan
from estimator.problems import InputError
from estimator.reader import Confirm, NotConfirmed, Reader, fits_in
from trainer.device import gpu_uuid
from trainer.dryrun import dry_run
from trainer.gpu_meter import gpu_holders
from trainer.probe_inputs import CPU_OVERHEAD_BYTES
from trainer.results import Change, OutOfMemory

MAX_DRY_RUNS = 6
"""Where the formula does not hold, changes are read by dry runs, of some seconds each."""

_FURTHEST_FIRST: tuple[Training, ...] = ("different", "nearly", "same")


def answered(shortage: OutOfMemory, plan: FineTunePlan, device: torch.device) -> OutOfMemory:
    """Return a shortage with what is known about it once the model is gone from the device."""
    holders = gpu_holders(gpu_uuid(device), {os.getpid()})
    if shortage.capacity_bytes is None:
        return shortage.model_copy(update={"holders": tuple(holders)})
    changes = _changes(plan, shortage.capacity_bytes, on_cuda=device.type == "cuda")
    return shortage.model_copy(update={"changes": changes, "holders": tuple(holders)})


def confirming(device: Device) -> Confirm:
    """Return what makes dry runs for one device, in this process, for a :class:`Reader`."""

    def confirm(plan: FineTunePlan) -> MemoryEstimate:
        try:
            return dry_run(plan, device=device)
        except InputError:
            raise
        except Exception as error:
            raise NotConfirmed(f"The dry run broke: {error}") from error

    return confirm


def _changes(plan: FineTunePlan, capacity_bytes: int, *, on_cuda: bool) -> tuple[Change, ...]:
    """Return up to three changes of which any one is enough; else one that holds several."""
    if not on_cuda:
        capacity_bytes -= CPU_OVERHEAD_BYTES
    kind: Device = "cuda" if on_cuda else "cpu"
    reader = Reader(confirm=confirming(kind), device=kind, dry_runs_left=MAX_DRY_RUNS)
    single = changes_that_fit(plan, capacity_bytes, device=kind, reader=reader)
    confirmed = [
        one for change in single if (one := _confirmed(change, plan, capacity_bytes, kind))
    ]
    if confirmed:
        return tuple(map(_change, confirmed))
    stack = stack_changes(plan, capacity_bytes, reader)
    return (_together(stack),) if stack and stack[-1].fits == "yes" else ()


def _confirmed(
    change: WeighedChange, plan: FineTunePlan, capacity_bytes: int, kind: Device
) -> WeighedChange | None:
    """Return a change with the dry run's peak, None where by the dry run it does not fit."""
    if change.basis == "dry-run":
        return change
    reader = Reader(confirm=confirming(kind), device=kind, dry_runs_left=1)
    found = reader.dry_run(with_keys(plan, change.keys))
    if found is None:
        return change
    if fits_in(found, capacity_bytes) != "yes":
        return None
    peak = {"basis": found.basis, "peak_allocated_bytes": found.peak_allocated_bytes}
    return change.model_copy(update=peak)


def _change(weighed: WeighedChange) -> Change:
    return Change(
        override=weighed.override,
        peak_allocated_bytes=weighed.peak_allocated_bytes,
        text=weighed.text,
        keys=weighed.keys,
        training=weighed.training,
        price=weighed.price,
    )


def _together(stack: list[WeighedChange]) -> Change:
    """Return several changes as one; a key that two of them set has the later one's value."""
    keys = {key: value for one in stack for key, value in one.keys.items()}
    return Change(
        override=" --set ".join(one.override for one in stack),
        peak_allocated_bytes=stack[-1].peak_allocated_bytes,
        text=", and ".join(one.text for one in stack),
        keys=keys,
        training=_furthest(one.training for one in stack),
        price="; ".join(one.price for one in stack),
    )


def _furthest(trainings: Iterable[Training]) -> Training:
    found = set(trainings)
    return next(one for one in _FURTHEST_FIRST if one in found)
