"""One report: a scenario, the advice for it, what it needs, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from advisor.recommend import recommend
from advisor.recommendation import Recommendation
from advisor.scenario import Scenario
from estimator.compare import compare_methods
from estimator.estimate import MemoryEstimate
from estimator.memory import NoFormula
from estimator.models import resolve_model
from estimator.other_peaks import OtherPeaks, read_other_peaks
from estimator.plan import FineTunePlan
from estimator.records import Record
from estimator.throughput import Throughput, read_throughput
from trainer.results import ProbeResult


class Report(Record):
    """Everything a report says, in whatever format.

    ``recommendation`` is None where no question was answered, ``estimates`` is empty where there
    is no plan, or none that the formula covers; ``estimates_refusal`` then says why. ``times`` and
    ``other_peaks`` hold one for each estimate.
    ``model_source`` is where the facts about the plan's model come from.
    """

    scenario: Scenario
    recommendation: Recommendation | None
    estimates: tuple[MemoryEstimate, ...]
    estimates_refusal: str = ""
    times: tuple[Throughput, ...] = ()
    other_peaks: tuple[OtherPeaks, ...] = ()
    model_source: str = ""
    probes: tuple[ProbeResult, ...]
    created_at: datetime

    def to_document(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)


def build_report(scenario: Scenario, probes: Sequence[ProbeResult] = ()) -> Report:
    """Return the report on a scenario.

    Args:
        scenario: What is to be decided.
        probes: Results of probes to lay beside the estimates.

    Raises:
        InputError: The plan's model cannot be found or read.
    """
    estimates, refusal = _estimates(scenario.plan)
    return Report(
        scenario=scenario,
        recommendation=recommend(scenario.answers, scenario.plan) if scenario.answers else None,
        estimates=estimates,
        estimates_refusal=refusal,
        times=tuple(read_throughput(one.plan) for one in estimates),
        other_peaks=tuple(map(read_other_peaks, estimates)),
        model_source=resolve_model(scenario.plan.model).source if scenario.plan else "",
        probes=tuple(probes),
        created_at=datetime.now(UTC),
    )


def _estimates(plan: FineTunePlan | None) -> tuple[tuple[MemoryEstimate, ...], str]:
    if plan is None:
        return (), "The scenario holds no fine-tuning plan."
    try:
        return tuple(compare_methods(plan)), ""
    except NoFormula as refusal:
        return (), f"{refusal} A dry run can still read this plan."
