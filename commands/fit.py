"""What fits a GPU, with the searches' answers confirmed by dry runs in worker processes."""

from __future__ import annotations

from commands.watch import Progress
from estimator.estimate import MemoryEstimate
from estimator.fit_report import FitReport, read_fit
from estimator.memory import NoFormula
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from estimator.reader import NotConfirmed
from trainer.dry_runs import DryRuns
from trainer.launch import WorkerFailed


def find_fit(plan: FineTunePlan, *, by_dry_run: bool) -> FitReport:
    """Return what fits the plan's GPU, confirmed by dry runs unless they are not wanted.

    Raises:
        InputError: The plan is wrong, or without dry runs nothing can be said of it.
        WorkerFailed: No formula holds, and the dry run broke.
    """
    if not by_dry_run:
        try:
            return read_fit(plan)
        except NoFormula as refusal:
            fix = "leave --no-dry-run out: dry runs can answer"
            raise InputError(Problem("--no-dry-run", refusal.reason, fix=fix)) from refusal
    with Progress("fit") as progress, DryRuns() as dry_runs:
        count = 0

        def confirm(variant: FineTunePlan) -> MemoryEstimate:
            nonlocal count
            count += 1
            progress(f"dry run {count}: {variant.method}, {_size(variant)}")
            try:
                return dry_runs.dry_run(variant)
            except WorkerFailed as error:
                raise NotConfirmed(str(error)) from error

        try:
            return read_fit(plan, confirm=confirm)
        except NotConfirmed as error:
            raise WorkerFailed(error.reason) from error


def _size(plan: FineTunePlan) -> str:
    return f"{plan.micro_batch_size} x {plan.seq_len:,} tokens on {plan.gpu_spec.name}"
