"""What would make a plan fit: what each change saves, and the mildest stack of changes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

from estimator.changes import KINDS, Change, Kind, KindOf, Training
from estimator.estimate import Basis, Device, Fits, MemoryEstimate
from estimator.plan import FineTunePlan
from estimator.problems import InputError
from estimator.reader import Reader, fits_in
from estimator.records import Record

MAX_CHANGES = 3
SMALLEST_DROP = 0.02
"""The part of the peak that a change must save to be worth its name."""

Stack = dict[KindOf, Change]
"""Changes that are made together, at most one of each kind, in the order of KINDS."""


class WeighedChange(Record):
    """A change, and what the plan then needs.

    ``override`` is what is typed after ``--set``; of several keys it holds the further ``--set``.
    ``saves_bytes`` is what the change takes off the peak of allocated memory, of a stack off the
    peak that the changes before it left; None where the peak without it was not read.
    """

    kind: str
    text: str
    keys: dict[str, Any]
    override: str
    training: Training
    price: str
    basis: Basis
    peak_allocated_bytes: int
    saves_bytes: int | None
    fits: Fits


def weigh_changes(
    plan: FineTunePlan, capacity_bytes: int, reader: Reader
) -> Iterator[WeighedChange]:
    """Yield every change there is with what it saves by itself, least disturbing first.

    Of a graded kind (smaller micro-batches, lower ranks, shorter examples) there is the mildest
    with which the plan fits, else the strongest; about half where the plan fits as it is. What
    cannot be read is left out.
    """
    fits_already = _fits(plan, capacity_bytes, reader)
    for kind_of in KINDS:
        kind = kind_of(plan)
        if kind.is_graded and kind.changes and fits_already:
            changes = [kind.changes[kind.usual]]
        elif kind.is_graded:
            best = _mildest(kind, plan, capacity_bytes, reader)
            changes = [best] if best else []
        else:
            changes = kind.changes
        for change in changes:
            weighed = _weighed(change, plan, capacity_bytes, reader)
            if weighed is not None:
                yield weighed


def changes_that_fit(
    plan: FineTunePlan,
    capacity_bytes: int,
    *,
    device: Device = "cuda",
    reader: Reader | None = None,
) -> list[WeighedChange]:
    """Return up to three changes of which any one brings a plan under a capacity, with room.

    They come in the order of how little they disturb. A change for which the formula does not
    hold is left out, and so is one that lowers the peak by less than :data:`SMALLEST_DROP`.

    Args:
        plan: What does not fit.
        capacity_bytes: The memory there is. On a GPU the allocator's cache and the CUDA context
            must fit it too, as far as the estimate assumes them; on a CPU the peak.
        device: Where the plan runs.
        reader: Reads the changed plans on that device; left out, the formula alone does.
    """
    found: list[WeighedChange] = []
    for change in weigh_changes(plan, capacity_bytes, reader or Reader(device=device)):
        if change.fits == "yes" and _is_worth_it(change):
            found.append(change)
        if len(found) == MAX_CHANGES:
            break
    return found


def stack_changes(plan: FineTunePlan, capacity_bytes: int, reader: Reader) -> list[WeighedChange]:
    """Return the mildest changes that together make a plan fit, each with the running peak.

    Changes are taken in the order of how little they disturb until the plan fits; then, from the
    last on, each that is not needed is dropped, and each that can be milder is made so. Where
    nothing makes it fit, these are all the changes that help.
    """
    chosen: Stack = {}
    for kind_of in KINDS:
        current = _changed(plan, chosen)
        if _fits(current, capacity_bytes, reader):
            break
        best = _mildest(kind_of(current), current, capacity_bytes, reader)
        weighed = _weighed(best, current, capacity_bytes, reader) if best else None
        if best is None or weighed is None or not _is_worth_it(weighed):
            continue
        leaves_formula = weighed.basis == "dry-run" and reader.formula(current) is not None
        if leaves_formula and weighed.fits != "yes":
            continue  # there would be no telling what the changes after it save
        chosen[kind_of] = best
    if _fits(_changed(plan, chosen), capacity_bytes, reader):
        chosen = _relaxed(chosen, plan, capacity_bytes, reader)
    return list(_running(plan, chosen.values(), capacity_bytes, reader))


def _relaxed(chosen: Stack, plan: FineTunePlan, capacity_bytes: int, reader: Reader) -> Stack:
    """Return the stack without what it can do without, and the rest as mild as it can be."""
    for kind_of in reversed(list(chosen)):
        others = {kind: change for kind, change in chosen.items() if kind is not kind_of}
        base = _changed(plan, others)
        if _fits(base, capacity_bytes, reader):
            chosen = others
        elif milder := _mildest(kind_of(base), base, capacity_bytes, reader):
            chosen = chosen | {kind_of: milder}
    return chosen


def _running(
    plan: FineTunePlan, changes: Iterable[Change], capacity_bytes: int, reader: Reader
) -> Iterator[WeighedChange]:
    for change in changes:
        weighed = _weighed(change, plan, capacity_bytes, reader)
        if weighed is not None:
            yield weighed
        plan = change.apply(plan)


def _mildest(kind: Kind, plan: FineTunePlan, capacity_bytes: int, reader: Reader) -> Change | None:
    """Return the mildest change of a kind with which a plan fits, else the one that saves most."""
    changes = kind.changes
    if not changes:
        return None
    if not kind.is_graded:
        read = [(change, _read(change, plan, reader)) for change in changes]
        known = [(change, then) for change, then in read if then is not None]
        fitting = (change for change, then in known if fits_in(then, capacity_bytes) == "yes")
        smallest = min(known, key=lambda pair: pair[1].peak_allocated_bytes, default=(None, None))
        return next(fitting, smallest[0])
    if reader.formula(plan) is None:  # each reading is a dry run: take one
        return changes[kind.usual]

    def fits(change: Change) -> bool:
        then = _read(change, plan, reader)
        return then is not None and fits_in(then, capacity_bytes) == "yes"

    index = bisect_left(changes, True, key=fits)
    return changes[min(index, len(changes) - 1)]


def _read(change: Change, plan: FineTunePlan, reader: Reader) -> MemoryEstimate | None:
    try:
        return reader.read(change.apply(plan))
    except InputError:  # not possible with this plan
        return None


def _weighed(
    change: Change, plan: FineTunePlan, capacity_bytes: int, reader: Reader
) -> WeighedChange | None:
    """Return a change with what it saves, like compared with like where that is possible."""
    then = _read(change, plan, reader)
    if then is None:
        return None
    formula = reader.formula(plan)
    now = formula if formula and then.basis == "formula" else reader.dry_run(plan) or formula
    peak = then.peak_allocated_bytes
    return WeighedChange(
        kind=change.kind,
        text=change.text,
        keys=change.keys,
        override=change.override,
        training=change.training,
        price=change.price,
        basis=then.basis,
        peak_allocated_bytes=peak,
        saves_bytes=now.peak_allocated_bytes - peak if now else None,
        fits=fits_in(then, capacity_bytes),
    )


def _is_worth_it(change: WeighedChange) -> bool:
    if change.saves_bytes is None:
        return True
    before = change.peak_allocated_bytes + change.saves_bytes
    return change.saves_bytes >= SMALLEST_DROP * before


def _changed(plan: FineTunePlan, chosen: Stack) -> FineTunePlan:
    for change in chosen.values():
        plan = change.apply(plan)
    return plan


def _fits(plan: FineTunePlan, capacity_bytes: int, reader: Reader) -> bool:
    estimate = reader.read(plan)
    return estimate is not None and fits_in(estimate, capacity_bytes) == "yes"
