"""One report: a scenario, the advice for it, what it needs and costs, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, Literal

from advisor.cost_models import MeasuredSpeed
from advisor.cost_report import CostReport
from advisor.costs import reckon_costs
from advisor.recommend import recommend
from advisor.recommendation import Recommendation
from advisor.scenario import Scenario
from estimator.calibrated import Calibrated
from estimator.compare import compare_methods
from estimator.estimate import MemoryEstimate
from estimator.memory import NoFormula
from estimator.models import resolve_model
from estimator.other_peaks import OtherPeaks, read_other_peaks
from estimator.plan import FineTunePlan
from estimator.records import Record
from estimator.throughput import Throughput, read_throughput
from reports.measured_runs import FineTuneRun, MeasuredRun, ProbeRun, SearchRun, measured_speed
from trainer.lessons import calibrate_here


class Report(Record):
    """Everything a report says, in whatever format; docs/report.schema.json is made from it.

    Attributes:
        version: Of this layout.
        made_on: The day for which prices were looked up.
        recommendation: None where no question was answered.
        estimates: By method; empty where there is no plan, or none that the formula covers.
        estimates_refusal: Why there are no estimates, else "".
        times: One for each estimate.
        other_peaks: One for each estimate.
        calibrated: What this machine's probes make of the estimates, as far as they say something.
        model_source: Where the facts about the plan's model come from.
        costs: What every strategy costs; None where the scenario holds no workload.
        probes: Results of probes, in the order in which they were named; so are the next two.
        finetunes: Results of fine-tunes.
        searches: Results of searches.
    """

    version: Literal[1] = 1
    made_on: date
    scenario: Scenario
    recommendation: Recommendation | None
    estimates: tuple[MemoryEstimate, ...]
    estimates_refusal: str = ""
    times: tuple[Throughput, ...] = ()
    other_peaks: tuple[OtherPeaks, ...] = ()
    calibrated: tuple[Calibrated, ...] = ()
    model_source: str = ""
    costs: CostReport | None = None
    probes: tuple[ProbeRun, ...] = ()
    finetunes: tuple[FineTuneRun, ...] = ()
    searches: tuple[SearchRun, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    def estimate(self, method: str) -> MemoryEstimate | None:
        """Return the estimate of a method."""
        return next((one for one in self.estimates if one.plan.method == method), None)


def build_report(scenario: Scenario, runs: Sequence[MeasuredRun] = (), *, today: date) -> Report:
    """Return the report on a scenario.

    The same scenario, runs and day make an equal report, as long as the machine has the same
    lessons from probes. A run with the plan's model, method and GPU gives costs its speed.

    Args:
        scenario: What is to be decided.
        runs: What was measured, to lay beside the estimates.
        today: The day for which prices are taken, and their age is told.

    Raises:
        InputError: The plan's model cannot be found or read, or the workload names a model, a GPU
            or a provider that does not exist.
    """
    estimates, refusal = _estimates(scenario.plan)
    times = tuple(read_throughput(one.plan) for one in estimates)
    calibrated = (
        calibrate_here(one, time, on=today) for one, time in zip(estimates, times, strict=True)
    )
    return Report(
        made_on=today,
        scenario=scenario,
        recommendation=recommend(scenario.answers, scenario.plan) if scenario.answers else None,
        estimates=estimates,
        estimates_refusal=refusal,
        times=times,
        other_peaks=tuple(map(read_other_peaks, estimates)),
        calibrated=tuple(one for one in calibrated if one),
        model_source=resolve_model(scenario.plan.model).source if scenario.plan else "",
        costs=reckon_costs(scenario, today=today, measured=_speed(scenario.plan, runs))
        if scenario.workload
        else None,
        probes=tuple(one for one in runs if isinstance(one, ProbeRun)),
        finetunes=tuple(one for one in runs if isinstance(one, FineTuneRun)),
        searches=tuple(one for one in runs if isinstance(one, SearchRun)),
    )


def _estimates(plan: FineTunePlan | None) -> tuple[tuple[MemoryEstimate, ...], str]:
    if plan is None:
        return (), "The scenario holds no fine-tuning plan."
    try:
        found = compare_methods(plan)
    except NoFormula as refusal:
        return (), f"{refusal} A dry run can still read this plan."
    # how long a formula took differs from time to time, and a report must not
    return tuple(one.model_copy(update={"seconds": None}) for one in found), ""


def _speed(plan: FineTunePlan | None, runs: Sequence[MeasuredRun]) -> MeasuredSpeed | None:
    """Return the first speed that was measured with the plan's model, method and GPU."""
    if plan is None:
        return None
    wanted = plan.model, plan.method, plan.gpu_spec.name
    speeds = (measured_speed(one.run, one.result) for one in runs)
    return next((one for one in speeds if one and (one.model, one.method, one.gpu) == wanted), None)
