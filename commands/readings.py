"""The reading that a command shows: the formula where it holds, the dry run otherwise."""

from __future__ import annotations

from typing import Any

import typer

from commands.watch import Progress
from estimator.calibrated import Calibrated
from estimator.compare import METHODS, compare_methods, under_method
from estimator.estimate import MemoryEstimate
from estimator.gpus import Gpu
from estimator.judge import judge_traced
from estimator.memory import NoFormula, read_formula
from estimator.other_peaks import read_other_peaks
from estimator.plan import FineTunePlan
from estimator.throughput import read_throughput
from trainer import launch
from trainer.lessons import calibrate_here


def read_plan(plan: FineTunePlan, *, by_dry_run: bool = False) -> MemoryEstimate:
    """Return the formula's reading of a plan; the dry run's where asked for or none holds."""
    if not by_dry_run:
        try:
            return read_formula(plan)
        except NoFormula as error:
            typer.echo(f"{error} Taking the dry run instead.", err=True)
    with Progress(f"dry run of {plan.method}") as progress:
        return launch.dry_run(plan, on_progress=progress)


def read_calibrated(reading: MemoryEstimate) -> Calibrated | None:
    """Return a reading beside what probes on this machine's GPU make of it, None without any."""
    return calibrate_here(reading, read_throughput(reading.plan))


def with_outlook(reading: MemoryEstimate, known: Calibrated | None = None) -> dict[str, Any]:
    """Return a reading as plain JSON values, with its time, the other peaks and its calibration."""
    time, other_peaks = read_throughput(reading.plan), read_other_peaks(reading)
    outlook = {"time": time.to_document(), "other_peaks": other_peaks.to_document()}
    calibration = {"calibration": known.to_document() if known else None}
    return reading.to_document() | outlook | calibration


def read_methods(plan: FineTunePlan, gpus: tuple[Gpu, ...]) -> list[MemoryEstimate]:
    """Return one reading per method, all judged against the same GPUs."""
    try:
        return compare_methods(plan, gpus=gpus)
    except NoFormula as error:
        typer.echo(f"{error} Taking dry runs instead.", err=True)
    plans = [under_method(plan, method) for method in METHODS]
    found = [read_plan(one, by_dry_run=True) for one in plans]
    return [judge_traced(reading, gpus) for reading in found] if gpus else found
