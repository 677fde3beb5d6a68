"""The first screen: what to do, the figures that matter, and what to look at before deciding."""

from __future__ import annotations

from collections.abc import Iterator

from advisor.cost_report import StrategyCost, UsdRange
from estimator.estimate import MemoryEstimate
from reports.blocks import Block, Callout, Facts, Paragraph, Text, bullets, strong
from reports.build import Report
from reports.cost_facts import advised, cheapest
from reports.outlook import hours
from reports.terminal_cost import short_usd
from reports.units import gib, percent
from reports.words import basis_name, method_name

_MOST_WARNINGS = 5


def blocks(report: Report) -> list[Block]:
    """Return the first section."""
    advice = report.recommendation
    if advice:
        head: list[Block] = [
            Callout(advice.sentence, [strong("Do now: "), advice.recommendation.do_now])
        ]
    else:
        head = [Callout("No question of the questionnaire is answered, so there is no advice.")]
    facts = list(_facts(report))
    return [
        *head,
        *([Paragraph(report.scenario.notes)] if report.scenario.notes.strip() else []),
        *([Facts(facts)] if facts else []),
        *bullets(_before(report)),
    ]


def leading_estimate(report: Report) -> MemoryEstimate | None:
    """Return the estimate of the advised method, else that of the plan's own."""
    advice, plan = report.recommendation, report.scenario.plan
    method = advice and (advice.recommendation.method or advice.target_method)
    found = report.estimate(method) if method else None
    return found or (report.estimate(plan.method) if plan else None)


def _facts(report: Report) -> Iterator[tuple[str, str, str]]:
    estimate = leading_estimate(report)
    if estimate:
        yield from _needs(report, estimate)
    cost = advised(report) or cheapest(report.costs)
    if cost and cost.total_range:
        yield _cost(report, cost, cost.total_range)
    yield from _measured(report)
    if report.recommendation:
        sure = report.recommendation.confidence
        if not sure.answered:
            yield "Confidence", "not known", "no question is answered yet"
            return
        yield (
            "Confidence",
            f"{sure.stability:.0%}".replace("%", " %"),
            f"of {sure.num_draws} draws, with points and weights redrawn, give the same advice; "
            f"{sure.answered:.0%} of the questions that matter are answered".replace("%", " %"),
        )


def _needs(report: Report, estimate: MemoryEstimate) -> Iterator[tuple[str, str, str]]:
    method, gpu = method_name(estimate.plan.method), estimate.plan.gpu_spec
    fit = estimate.fit(gpu)
    verdict = {"yes": "fits", "tight": "fits tightly on", "no": "does not fit"}[fit.fits]
    left = f"{gib(abs(fit.headroom_bytes))} {'short' if fit.headroom_bytes < 0 else 'left'}"
    yield (
        "GPU memory",
        gib(estimate.smallest_need_bytes),
        f"{method} of {estimate.plan.model}, at least, with context; {verdict} {gpu.name}, {left} "
        f"({basis_name(estimate)})",
    )
    time = report.times[report.estimates.index(estimate)]
    if time.hours:
        low, high = hours(time.hours.low), hours(time.hours.high)
        yield (
            "Training time",
            hours(time.hours.likely),
            f"{method} on {time.gpu}, {low} to {high} ({time.basis})",
        )


def _cost(report: Report, cost: StrategyCost, spread: UsdRange) -> tuple[str, str, str]:
    months = report.costs.horizon_months if report.costs else 0
    between = f"{short_usd(spread.p10)} to {short_usd(spread.p90)} in 8 of 10 draws"
    parts = [cost.title, between]
    best = cheapest(report.costs)
    if best and best.total_range and best.id != cost.id:
        title = f"{best.title[0].lower()}{best.title[1:]}"
        parts.append(f"cheapest: {title}, {short_usd(best.total_range.p50)}")
    return f"Cost over {months} months", short_usd(spread.p50), "; ".join(parts)


def _measured(report: Report) -> Iterator[tuple[str, str, str]]:
    for probe in report.probes:
        result = probe.result
        reading = result.dry_run or result.formula
        if result.measured is None or reading is None:
            continue
        peak = result.measured.peak_allocated_bytes
        off = percent(reading.peak_allocated_bytes, peak)
        yield (
            f"Measured: {method_name(result.plan.method)}",
            gib(peak),
            f"allocated at the peak by {result.plan.model} on {result.device_name}; the "
            f"{basis_name(reading)} is off by {off}",
        )
        return


def _before(report: Report) -> Iterator[Text]:
    """Yield what to look at before deciding."""
    advice = report.recommendation
    if advice:
        for gate in advice.gates:
            if gate.kind == "prerequisite":
                yield [strong("First: "), gate.step or gate.text]
        flips = len(advice.what_would_change)
        if flips:
            answers = "1 answer" if flips == 1 else f"{flips} single answers"
            yield f"{answers}, given otherwise, would change the advice (see below)."
    yield from _runs(report)
    for warning in report.costs.warnings[:_MOST_WARNINGS] if report.costs else ():
        yield [strong("Costs: "), warning]
    if report.scenario.plan and report.estimates_refusal:
        yield [strong("No estimate: "), report.estimates_refusal]


def _runs(report: Report) -> Iterator[Text]:
    for finetune in report.finetunes:
        if finetune.result.comparison:
            yield [strong("Fine-tuned: "), _first(finetune.result.comparison.sentence)]
    for search in report.searches:
        if search.result.sentence:
            yield [strong("Searched: "), _first(search.result.sentence)]
    for probe in report.probes:
        if probe.result.out_of_memory:
            method, device = method_name(probe.result.plan.method), probe.result.device_name
            yield [strong("Out of memory: "), f"the probe of {method} on {device}."]


def _first(text: str) -> str:
    """Return the first sentence; the others stand where the run is told of."""
    sentence, end, _ = text.partition(". ")
    return sentence + end.strip()
