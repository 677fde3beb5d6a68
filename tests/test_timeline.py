"""The step's timeline: what the record checks, and what page and report draw of it."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
from pydantic import ValidationError

from estimator.estimate import COMPONENTS, MemoryEstimate, Timeline
from estimator.memory import read_formula
from estimator.plan import FineTunePlan
from pages.ui.charts import step_timeline
from reports import html
from reports.build import build_report
from reports.timeline_chart import timeline_chart

GIB = 2**30


@pytest.fixture
def timeline() -> Timeline:
    """A step that keeps activations, turns them into gradients, and steps."""
    return Timeline(
        at=(0.0, 0.25, 0.5, 0.75, 1.0),
        phase=("forward", "forward", "backward", "backward", "optimizer"),
        components_bytes={
            "weights": (4 * GIB,) * 5,
            "gradients": (0, 0, 1 * GIB, 3 * GIB, 3 * GIB),
            "activations": (0, 4 * GIB, 3 * GIB, 0, 0),
        },
    )


def test_every_series_has_one_value_for_each_point() -> None:
    with pytest.raises(ValidationError, match="one value for each point"):
        Timeline(at=(0, 1), phase=("forward",), components_bytes={"weights": (1, 2)})
    with pytest.raises(ValidationError, match="one value for each point"):
        Timeline(at=(0, 1), phase=("forward",) * 2, components_bytes={"weights": (1,)})


def test_it_knows_where_phases_begin_and_what_is_alive(timeline: Timeline) -> None:
    starts = [(0.0, "forward"), (0.5, "backward"), (1.0, "optimizer")]
    assert timeline.phase_starts() == starts
    assert [size / GIB for size in timeline.total_bytes()] == [4, 8, 8, 7, 7]


def test_the_page_stacks_the_components_and_marks_the_phases(timeline: Timeline) -> None:
    colors = [f"#00000{index}" for index in range(len(COMPONENTS) + 1)]
    figure = step_timeline(timeline, colors).to_dict()
    shown = {area["name"]: list(area["y"]) for area in figure["data"] if area["showlegend"]}
    assert shown == {
        "weights": [4] * 5,
        "gradients": [0, 0, 1, 3, 3],
        "activations": [0, 4, 3, 0, 0],
    }
    assert {area["stackgroup"] for area in figure["data"]} == {"step"}
    colors_of = {area["name"]: area["fillcolor"] for area in figure["data"]}
    assert colors_of["weights"] == "#000000"
    assert colors_of["gradients"] == "#000003"
    marks = [note["text"] for note in figure["layout"]["annotations"]]
    assert marks == ["forward", "backward", "optimizer", "<b>peak 8.0 GiB</b>"]
    assert [line["x0"] for line in figure["layout"]["shapes"]] == [0, 0.5, 1]


def corners(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", points)]


def test_the_report_stacks_the_same(timeline: Timeline) -> None:
    chart = timeline_chart(timeline, width=100, height=105)
    areas = {area.name: corners(area.points) for area in chart.areas}
    assert list(areas) == ["weights", "gradients", "activations"]
    per_gib = 100 / 8  # the fullest moment is 8 GiB, and 5 % above it stay free
    assert min(y for _, y in areas["weights"]) == pytest.approx(105 - 4 * per_gib, abs=0.1)
    assert min(y for _, y in areas["activations"]) == pytest.approx(5, abs=0.1)
    assert chart.phases == ((0, "forward"), (50, "backward"), (100, "optimizer"))
    assert [label for _, label in chart.ticks] == ["0 GiB", "2 GiB", "4 GiB", "6 GiB", "8 GiB"]


def test_memory_is_held_until_the_next_point(timeline: Timeline) -> None:
    weights, gradients, activations = timeline_chart(timeline, width=100, height=105).areas
    # at a quarter of the step the activations jump: two corners stand above each other
    at_a_quarter = {y for x, y in corners(activations.points) if x == 25}
    assert len(at_a_quarter) == 2
    assert weights.points != gradients.points


def test_a_report_draws_the_steps_that_were_recorded(
    tiny_plan: FineTunePlan, timeline: Timeline
) -> None:
    from advisor.scenario import load_scenario

    example = Path(__file__).parents[1] / "examples" / "support-bot.yaml"
    report = build_report(load_scenario(example), today=date(2026, 11, 22))
    plain = html.render(report)
    assert "Memory over one step" not in plain
    first, *others = report.estimates
    recorded: MemoryEstimate = first.model_copy(update={"timeline": timeline})
    page = html.render(report.model_copy(update={"estimates": (recorded, *others)}))
    assert page.count("<polygon") == 3
    assert "Memory over one step" in page
    assert read_formula(tiny_plan).timeline is None
