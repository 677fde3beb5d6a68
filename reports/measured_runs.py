"""Runs as a report holds them: what each found, when, and how its loss went."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from math import isfinite
from typing import Any

from advisor.cost_models import MeasuredSpeed
from estimator.gpu_names import gpu_of_driver
from estimator.problems import InputError, Problem
from estimator.records import Record
from trainer.evaluation_results import HistoryPoint
from trainer.finetune_results import FineTuneResult
from trainer.requests import Result
from trainer.results import ProbeResult
from trainer.run_status import State
from trainer.runs import Run
from trainer.search_results import SearchResult


class _MeasuredRun(Record):
    """What is told of every run: its id, how it stands and the day (UTC) it ended."""

    run: str
    state: State
    ended_on: date | None


class ProbeRun(_MeasuredRun):
    """A probe."""

    result: ProbeResult


class FineTuneRun(_MeasuredRun):
    """A fine-tune; ``losses`` are those of its steps and of its validations, by step."""

    result: FineTuneResult
    losses: tuple[HistoryPoint, ...]


class SearchRun(_MeasuredRun):
    """A search for better settings."""

    result: SearchResult


MeasuredRun = ProbeRun | FineTuneRun | SearchRun


def read_runs(runs: Iterable[Run]) -> list[MeasuredRun]:
    """Return what runs found, each of them once.

    Raises:
        InputError: Some of them have found nothing (yet), or their files are damaged.
    """
    found, problems = [], list[Problem]()
    for run in {run.id: run for run in runs}.values():
        try:
            found.append(read_run(run))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return found


def read_run(run: Run) -> MeasuredRun:
    """Return what a run found.

    Raises:
        InputError: It has found nothing (yet), or its files are damaged.
    """
    result, status = run.result(), run.status()
    if result is None:
        fix = "leave it out, or name another run" if status.is_final else "wait for its end"
        what = f"is {status.state} and has no result"
        raise InputError(Problem(f"run {run.id}", what, fix=fix))
    common: dict[str, Any] = {
        "run": run.id,
        "state": status.state,
        "ended_on": status.ended_at.date() if status.ended_at else None,
    }
    if isinstance(result, FineTuneResult):
        return FineTuneRun(result=result, losses=_losses(run, result), **common)
    if isinstance(result, SearchResult):
        return SearchRun(result=result, **common)
    return ProbeRun(result=result, **common)


def _losses(run: Run, result: FineTuneResult) -> tuple[HistoryPoint, ...]:
    """Return the losses by step; those that are no finite numbers are left out."""
    training = {row["step"]: row["loss"] for row in run.metrics() if "loss" in row}
    validation = {one.step: one.loss for one in result.validations}
    points = (
        HistoryPoint(
            step=step,
            training_loss=_finite(training.get(step)),
            validation_loss=_finite(validation.get(step)),
        )
        for step in sorted(training.keys() | validation.keys())
    )
    return tuple(one for one in points if (one.training_loss, one.validation_loss) != (None, None))


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and isfinite(value) else None


def measured_speed(run: str, result: Result) -> MeasuredSpeed | None:
    """Return how fast a run trained, None where it has no speed or ran on a CPU.

    Args:
        run: Its id.
        result: What it found.
    """
    if isinstance(result, SearchResult) or result.device != "cuda":
        return None
    if result.tokens_per_second is None:
        return None
    gpu = gpu_of_driver(result.device_name)
    return MeasuredSpeed(
        gpu=gpu.name if gpu else result.device_name,
        tokens_per_second=result.tokens_per_second,
        model=result.plan.model,
        method=result.plan.method,
        source=f"run {run}, {result.device_name}",
    )
