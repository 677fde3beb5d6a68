"""Reports: everything that was decided, estimated and measured, in one file."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

import reports.as_json
import reports.html
from advisor.scenario import Scenario, load_scenario
from estimator.compare import compare_methods
from estimator.estimate import MemoryEstimate
from reports import terminal
from reports.build import Report, build_report
from reports.charts import memory_chart
from reports.words import step_size, what_was_lacking
from trainer.results import Change, OutOfMemory, ProbeResult

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
        if tag not in ("meta", "line", "rect", "circle", "br"):
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
    """A full fine-tune that was measured and a LoRA that ran out of memory."""
    full, lora, _ = compare_methods(scenario.plan)
    common = {"device": "cuda", "weights": "random", "data": "a sample", "num_steps": 6}
    measured = measured_like(full, 1.02)
    return [
        ProbeResult(
            plan=full.plan,
            device_name="A Measured GPU",
            dry_run=None,
            formula=full,
            measured=measured,
            first_loss=5.125,
            last_loss=4.5,
            step_seconds_median=0.5,
            tokens_per_second=1024,
            software={"torch": "2.13.0"},
            **common,
        ),
        ProbeResult(
            plan=lora.plan,
            device_name="A Small GPU",
            dry_run=None,
            formula=lora,
            out_of_memory=OutOfMemory(
                phase="forward",
                requested_bytes=2**30,
                allocated_bytes=7 * 2**30,
                capacity_bytes=8 * 2**30,
                message="out of memory",
                changes=(Change(override="seq_len=256", peak_allocated_bytes=6 * 2**30),),
            ),
            **common,
        ),
    ]


def measured_like(estimate: MemoryEstimate, factor: float) -> MemoryEstimate:
    """A measurement that lies off an estimate by a factor."""
    peak = round(estimate.peak_allocated_bytes * factor)
    return estimate.model_copy(
        update={
            "basis": "measured",
            "components_bytes": dict.fromkeys(estimate.components_bytes),
            "peak_allocated_bytes": peak,
        }
    )


@pytest.fixture(scope="module")
def report(scenario, probes) -> Report:
    return build_report(scenario, probes)


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(reports.html.render(report))


def test_report_holds_advice_estimates_and_probes(report):
    assert report.recommendation.recommendation.strategy == "rag+finetune"
    assert [one.plan.method for one in report.estimates] == ["full", "lora", "qlora"]
    assert len(report.probes) == 2


def test_json_is_one_object_with_the_same_content(report):
    document = json.loads(reports.as_json.render(report))
    assert document["recommendation"]["recommendation"]["strategy"] == "rag+finetune"
    assert document["recommendation"]["what_would_change"][0].keys() >= {"from", "to"}
    assert document["estimates"][0]["components_bytes"]["gradients"] > 0
    assert document["probes"][1]["out_of_memory"]["phase"] == "forward"
    assert document["scenario"]["answers"]["examples"] == "500_4999"


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
    measured = report.probes[0].measured.peak_allocated_bytes
    assert f"{measured / 2**20:,.2f} MiB" in page.text
    assert "-1.96 %" in page.text
    assert "5.125 → 4.500" in page.text
    assert "A Measured GPU; torch 2.13.0" in page.text
    lacking = "Out of memory in the forward phase: asked for 1.0 GiB more, with 7.0 GiB of 8.0 GiB"
    assert lacking in page.text
    assert "any one of these changes makes it fit" in page.text
    assert "--set seq_len=256" in page.text


def test_a_steps_time_says_how_much_of_the_plans_step_it_is(page, report):
    planned = report.probes[0].plan.gradient_accumulation_steps
    assert planned > 2
    assert f"500.0 ms 2 of {planned} micro-batches" in page.text
    assert step_size(report.probes[0].plan.changed(gradient_accumulation_steps=1)) == (
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
    document = reports.html.render(build_report(Scenario(title=title)))
    assert "<script" not in document
    assert title in Page(document).text


def test_a_scenario_without_plan_or_probes_says_so():
    report = build_report(load_scenario(EXAMPLES / "handbook.yaml"))
    page = Page(reports.html.render(report))
    assert report.estimates == ()
    assert "Nothing has been measured for this report" in page.text
    assert "Memory of one training step" not in page.text


def test_an_empty_scenario_gives_no_advice_and_says_so():
    report = build_report(Scenario())
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
    assert all(0 <= line.x <= chart.width for line in chart.lines)


def test_no_address_but_links_is_in_the_page(report):
    document = reports.html.render(report)
    without_links = re.sub(r'<a href="[^"]*"', "", document)
    assert not re.search(r"(?:url\(|@import|src=)", without_links)
