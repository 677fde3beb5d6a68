"""What terminal, page and HTML say of a probe beside its memory, as plain rows and sentences."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from estimator.changes import with_keys
from estimator.plan import FineTunePlan
from estimator.whole_run import WholeRun
from reports.outlook import hours as in_hours
from reports.units import duration, gib, number, usd
from reports.words import step_size
from trainer.requests import command_of
from trainer.results import BatchSearch, Change, GpuHolder, GpuUse, ProbeRequest, ProbeResult
from trainer.runs import Run

_ROLES = {
    "watched": "watched storage by storage, at full length",
    "stress": "at full length for the peak",
    "warm_up": "to warm up",
    "timed": "timed",
}


def facts(result: ProbeResult) -> list[tuple[str, str]]:
    """Return what a probe found beside its memory: a name and a value each."""
    return [(name, value) for name, value in _facts(result) if value]


def _facts(result: ProbeResult) -> Iterator[tuple[str, str]]:
    yield "steps", ", ".join(f"{n} {_ROLES[role]}" for role, n in result.steps.items())
    if result.step_seconds_median is not None:
        p95 = result.step_seconds_p95
        tail = "" if p95 is None else f", 95 % within {duration(p95)}"
        median = duration(result.step_seconds_median)
        yield "time per step", f"{median} median{tail} ({step_size(result.plan)})"
    if result.tokens_per_second is not None:
        padded = result.padded_tokens_per_second
        tail = "" if padded is None else f"; with padding {number(padded, 0)}"
        yield "tokens per second", f"{number(result.tokens_per_second, 0)} real{tail}"
    if result.gpu_use:
        yield "GPU", gpu_use(result.gpu_use)
    yield "weights", result.weights_note
    if result.whole_run:
        yield "whole run", whole_run(result.whole_run)
    if result.batch_search:
        yield "largest micro-batch", batch_search(result.batch_search)


def gpu_use(use: GpuUse) -> str:
    """Return how busy a GPU was, and what power it took."""
    parts = []
    if use.mean_utilization_percent is not None and use.max_utilization_percent is not None:
        busy = f"{use.mean_utilization_percent:.0f} % busy on average"
        parts.append(f"{busy}, {use.max_utilization_percent:.0f} % at most")
    if use.mean_power_watts is not None:
        parts.append(f"{use.mean_power_watts:.0f} W")
    if use.energy_joules is not None:
        parts.append(f"{use.energy_joules:,.0f} J in {duration(use.seconds)}")
    return ", ".join(parts)


def whole_run(found: WholeRun) -> str:
    """Return the time and money of the whole fine-tune, each with its range."""
    if found.hours is None:
        return f"not known. {found.unknown}"
    low, likely, high = map(in_hours, (found.hours.low, found.hours.likely, found.hours.high))
    sentence = f"{found.num_steps:,} steps take {likely} ({low} to {high})"
    if found.usd is None:
        return f"{sentence}. {found.unknown}"
    low, likely, high = map(usd, (found.usd.low, found.usd.likely, found.usd.high))
    dates = f"{found.prices_from}"
    if found.prices_from != found.prices_to:
        dates = f"{found.prices_from} to {found.prices_to}"
    prices = "1 price" if found.num_prices == 1 else f"{found.num_prices} prices"
    return f"{sentence} and cost {likely} ({low} to {high}; {prices} of {found.gpu}, {dates})."


def batch_search(found: BatchSearch) -> str:
    """Return the largest micro-batch that ran, with every try."""
    if found.largest is None:
        sentence = "not even 1 runs" if found.is_exact else "none had run when it was stopped"
    else:
        sentence = f"{found.largest} runs"
        if found.is_exact and found.largest == found.num_rows:
            rows = "1 row" if found.num_rows == 1 else f"{found.num_rows:,} rows"
            sentence += f", and no larger one was tried: your data fills {rows}"
        elif not found.is_exact:
            sentence += ", and perhaps a larger one: the search was stopped"
    tries = ", ".join(
        f"{one.micro_batch_size} {gib(one.peak_allocated_bytes) if one.ran else 'does not run'}"
        for one in found.tries
    )
    return f"{sentence}{_predicted(found)}. Tried: {tries}."


def _predicted(found: BatchSearch) -> str:
    """Say what was predicted, and why that did not come true."""
    if found.predicted is None:
        return ""
    said = f"; predicted {found.predicted}"
    missed = [one for one in found.tries if one.micro_batch_size == found.predicted and not one.ran]
    if not missed:
        return said
    if missed[0].requested_bytes is None:
        return f"{said}, which ran short of memory"
    asked = gib(missed[0].requested_bytes)
    return (
        f"{said}, which ran short when it asked for {asked} more: a prediction knows tensors, not "
        "the gaps between them nor the buffers within operations"
    )


def holders(found: tuple[GpuHolder, ...]) -> str:
    """Return who else holds a GPU's memory, "" where nobody is known to."""
    if not found:
        return ""
    names = (f"{one.name} (pid {one.pid}, {gib(one.used_bytes)})" for one in found)
    return f"Also on this GPU: {', '.join(names)}."


def changed_plan(plan: FineTunePlan, tried: FineTunePlan, change: Change) -> FineTunePlan:
    """Return a plan with a change that would make it fit.

    Args:
        plan: As it was asked for.
        tried: As it was run: its micro-batch may have been searched for.
        change: One of those found for it.
    """
    return with_keys(plan.changed(micro_batch_size=tried.micro_batch_size), change.keys)


def commands(run: Run, result: ProbeResult) -> list[str]:
    """Return a command for each change that makes a plan fit, none where the steps ran."""
    request, plan_path = run.request(), str(run.folder / "plan.json")
    if result.out_of_memory is None or not isinstance(request, ProbeRequest):
        return []
    changes = result.out_of_memory.changes
    return [change_command(request, plan_path, result.plan, change) for change in changes]


def change_command(
    request: ProbeRequest, plan_path: str, tried: FineTunePlan, change: Change
) -> str:
    """Return the command that probes a plan with one change, to be pasted into a shell.

    Args:
        request: The probe that ran out of memory.
        plan_path: Where its plan can be read, as it was asked for.
        tried: The plan as it was run.
        change: What is changed.
    """
    now = _flat(request.plan.to_document())
    then = _flat(changed_plan(request.plan, tried, change).to_document())
    overrides = [f"{key}={_typed(value)}" for key, value in then.items() if value != now.get(key)]
    words = command_of(request.model_copy(update={"find_batch": False}), plan_path)
    return shlex.join([*words, *(word for one in overrides for word in ("--set", one))])


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        inner = value if isinstance(value, dict) else {}
        found |= {f"{key}.{name}": one for name, one in inner.items()} or {key: value}
    return found


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
