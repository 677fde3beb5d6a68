"""Reports: everything that was decided, estimated and measured, in one file."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_samples import DAY, finetune_run, probe_runs, search_run
from rich.console import Console

import reports.html
from advisor.scenario import Scenario, load_scenario
from estimator.calibrated import apply
from estimator.calibration import Calibration, Figure
from reports import terminal
from reports.build import Report, build_report
from reports.charts import memory_chart
from reports.charts_lines import Series, axis, line_chart
from reports.terminal_cost import short_usd
from reports.units import count
from reports.words import makes_it_fit, step_size, what_was_lacking
from trainer.results import OutOfMemory, ProbeResult

EXAMPLES = Path(__file__).parents[1] / "examples"


class Page(HTMLParser):
    """The text of a page, and every address in it that a browser would load or follow."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open_tags: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.links.append(value)
            elif name in ("src", "href", "srcset", "data"):
                self.loaded.append(value)
            elif name == "id":
                self.ids.append(value)
        if tag not in ("meta", "line", "rect", "circle"):
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("rect", "line", "circle"):
            assert self.open_tags.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario(EXAMPLES / "support-bot.yaml")


@pytest.fixture(scope="module")
def probes(scenario) -> list[ProbeResult]:
    return [one.result for one in probe_runs(scenario.plan)]


@pytest.fixture(scope="module")
def report(scenario) -> Report:
    plan = scenario.plan
    runs = [*probe_runs(plan), finetune_run(plan), search_run(plan)]
    return build_report(scenario, runs, today=DAY)


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(reports.html.render(report))


def test_report_holds_advice_estimates_and_probes(report):
    assert report.recommendation.recommendation.strategy == "rag+finetune"
    assert [one.plan.method for one in report.estimates] == ["full", "lora", "qlora"]
    assert len(report.probes) == 2


def test_page_is_well_formed_and_loads_nothing(page):
    assert page.open_tags == []
    assert page.loaded == []
    assert len(page.ids) == len(set(page.ids))
    inside = [link.removeprefix("#") for link in page.links if link.startswith("#")]
    assert set(inside) <= set(page.ids)
    assert all(link.startswith(("#", "https://")) for link in page.links)


def test_page_says_what_to_do_and_why(page, report):
    advice = report.recommendation
    assert advice.sentence in page.text
    assert advice.recommendation.do_now in page.text
    for reason in advice.ranking[0].reasons:
        assert reason.rule in page.text
        assert reason.text in page.text
        assert reason.url is None or reason.url in page.links
    for gate in advice.gates:
        assert gate.text in page.text


def test_page_shows_each_methods_memory_and_the_textbook_figure(page):
    assert "16 bytes x 6,738,415,616 parameters = 107.8 GB" in page.text
    assert "112 GB counts 7e9 parameters" in page.text
    assert "LoRA (advised)" in page.text
    assert "QLoRA (advised)" not in page.text, "LoRA fits the GPU of the plan"


def test_page_lays_measured_beside_estimated(page, report):
    measured = report.probes[0].result.measured.peak_allocated_bytes
    assert f"{measured / 2**20:,.2f} MiB" in page.text
    assert "-1.96 %" in page.text
    assert "5.125 → 4.500" in page.text
    assert "A Measured GPU; torch 2.13.0" in page.text
    lacking = "Out of memory in the forward phase: asked for 1.0 GiB more, with 7.0 GiB of 8.0 GiB"
    assert lacking in page.text
    assert "makes it fit" in page.text
    assert "--set seq_len=256" in page.text


def test_a_steps_time_says_how_much_of_the_plans_step_it_is(page, report):
    planned = report.probes[0].result.plan.gradient_accumulation_steps
    assert planned > 2
    assert f"500.0 ms 2 of {planned} micro-batches" in page.text
    assert step_size(report.probes[0].result.plan.changed(gradient_accumulation_steps=1)) == (
        "1 micro-batch"
    )


def test_what_is_not_known_of_a_shortage_is_left_out():
    found = OutOfMemory(
        phase="forward",
        requested_bytes=44 * 2**20,
        allocated_bytes=None,
        capacity_bytes=2**30,
        message="",
    )
    assert what_was_lacking(found) == (
        "Out of memory in the forward phase: asked for 44.0 MiB more, "
        "where there are 1.0 GiB in all."
    )
    unknown = found.model_copy(update={"requested_bytes": None, "capacity_bytes": None})
    assert what_was_lacking(unknown) == "Out of memory in the forward phase."
    assert "this change makes it fit" in makes_it_fit(1)


def test_terminal_and_page_say_the_same_of_a_probe(page, probes):
    screen = Console(width=80, file=io.StringIO())
    screen.print(terminal.readings(probes))
    said = screen.file.getvalue()
    assert max(map(len, said.splitlines())) <= 80
    planned = probes[0].plan.gradient_accumulation_steps
    for words in (what_was_lacking(probes[1].out_of_memory), f"2 of {planned}"):
        assert words in " ".join(said.split())
        assert words in page.text


def test_page_prints_a_plan_that_can_be_used_again(page, report):
    assert " ".join(report.scenario.plan.to_yaml().split()) in page.text


def test_what_people_write_is_shown_and_never_run():
    title = "<script>alert(1)</script> & more"
    document = reports.html.render(build_report(Scenario(title=title), today=DAY))
    assert "<script" not in document
    assert title in Page(document).text


def test_a_scenario_without_plan_or_probes_says_so():
    report = build_report(load_scenario(EXAMPLES / "handbook.yaml"), today=DAY)
    page = Page(reports.html.render(report))
    assert report.estimates == ()
    assert "Nothing has been measured for this report" in page.text
    assert "Memory of one training step" not in page.text


def test_an_empty_scenario_gives_no_advice_and_says_so():
    report = build_report(Scenario(), today=DAY)
    assert report.recommendation is None
    assert "there is no advice" in Page(reports.html.render(report)).text


def test_bars_and_lines_share_one_scale(report):
    chart = memory_chart(report.estimates)
    longest = max(chart.bars, key=lambda bar: bar.end)
    scale = longest.end / longest.estimate.smallest_need_bytes
    for bar in chart.bars:
        assert bar.end == pytest.approx(bar.estimate.smallest_need_bytes * scale)
        assert sum(one.width for one in bar.segments) == pytest.approx(bar.end)
        for line in chart.lines:
            assert line.x == pytest.approx(line.memory_bytes * scale)
    assert chart.lines[-1].x >= longest.end
    assert all(0 <= line.x <= 100 for line in chart.lines)


def test_the_first_screen_says_what_to_do_and_what_it_takes(page, report):
    first = page.text[: page.text.index(" Why ", page.text.index("The decision in short"))]
    for words in (report.recommendation.sentence, "fits RTX 4090", "Cost over 24 months"):
        assert words in first
    assert "It learned. " in first
    assert "Trial 1 is best" in first


def test_page_tells_costs_as_they_were_reckoned(page, report):
    for one in report.costs.strategies:
        assert one.title in page.text
        assert short_usd(one.total_range.p50) in page.text
    for warning in report.costs.warnings:
        assert warning in page.text
    for found in report.costs.inputs:
        assert found.source.split()[0] in page.text


def test_it_says_at_which_volume_another_strategy_costs_less(page, report):
    pair = next(
        one
        for one in report.costs.break_evens
        if {one.one, one.other} == {"prompt", "rag+finetune"}
    )
    requests = count(pair.in_all[0].requests_per_month)
    title = next(one.title for one in report.costs.strategies if one.id == "prompt")
    running = count(pair.running[0].requests_per_month)
    assert f"{title} below {running} below {requests}" in page.text


def test_page_shows_fine_tunes_and_searches(page):
    for words in (
        "run 20261122-finetune, 2026-11-22",
        "validation loss 2.000 1.500",
        "run 20261122-search, 2026-11-22",
        "failed the worker is gone",
        "the method's default 0.001",
    ):
        assert words in page.text


def test_calibrated_values_stand_beside_the_plain_ones(report):
    lora, time = report.estimates[1], report.times[1]
    offset = Figure(median=2**30, low=2**30, high=2**30, num_lessons=2)
    taught = Calibration(
        device_name="RTX 4090",
        stack={"torch": "2.13"},
        source="own",
        num_lessons=2,
        newest=DAY,
        oldest=DAY,
        lessons=("a", "b"),
        formula_offset_bytes=offset,
        notes=("Both lessons are young.",),
    )
    known = apply(taught, lora, time)
    text = Page(reports.html.render(report.model_copy(update={"calibrated": (known,)}))).text
    assert "by 2 probes on RTX 4090 (2026-11-22): allocated 14.5 GiB (plain 13.5 GiB)" in text
    assert "Both lessons are young." in text


def test_a_workload_that_is_zero_or_comes_to_an_end_can_be_reported(scenario):
    for change in ({"requests_per_month": 0}, {"growth_percent_per_month": -100}):
        workload = scenario.workload.model_copy(update=change)
        changed = scenario.model_copy(update={"workload": workload, "plan": None})
        page = Page(reports.html.render(build_report(changed, today=DAY)))
        assert "What it costs" in page.text
        assert page.open_tags == []


def test_curves_lie_within_their_chart_and_cross_where_they_should():
    x, y = axis([1, 100], str, log=True), axis([0, 10], str, zero=True)
    chart = line_chart(
        [Series("up", [(1, 0), (10, 5), (100, 10)]), Series("beyond", [(10, 5), (1000, 50)])],
        x=x,
        y=y,
        x_title="x",
        mark=(10, "here"),
    )
    points = [tuple(map(float, one.split(","))) for one in chart.lines[0].points.split()]
    assert points[1] == pytest.approx((50, 100 - 5 / 10.5 * 100), abs=0.1)
    assert [one[0] for one in points] == sorted(one[0] for one in points)
    assert len(chart.lines[1].points.split()) == 1
    assert chart.mark == (pytest.approx(50), "here")
    assert all(0 <= at <= 100 for at, _ in (*chart.x_ticks, *chart.y_ticks))


def test_no_address_but_links_is_in_the_page(report):
    document = reports.html.render(report)
    without_links = re.sub(r'<a href="[^"]*"', "", document)
    assert not re.search(r"(?:url\(|@import|src=)", without_links)
