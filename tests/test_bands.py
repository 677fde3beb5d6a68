"""Between what limits an estimate's sizes lie: low, likely, high, whatever it was read from."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from estimator.bands import RESERVED_MOST, formula_bands, measured_bands
from estimator.estimate import FRAGMENTATION_ASSUMED, Level, MemoryEstimate, ParameterCounts
from estimator.memory import read_formula
from estimator.plan import FineTunePlan, load_plan
from pages.ui.charts import size_bands
from reports import terminal
from reports.levels import context, sizes
from trainer.dry_runs import DryRuns

PROJECT = Path(__file__).parents[1]
GIB = 2**30
TEXTBOOK = load_plan(PROJECT / "examples" / "llama-2-7b.yaml")

plans = st.builds(
    TEXTBOOK.changed,
    model=st.sampled_from(["meta-llama/Llama-2-7b-hf", str(PROJECT / "examples" / "tiny-llama")]),
    method=st.sampled_from(["full", "lora", "qlora"]),
    micro_batch_size=st.integers(1, 8),
    seq_len=st.sampled_from([16, 512, 2048]),
    gpu=st.sampled_from(["Tesla T4", "RTX 4090", "H100 SXM 80GB"]),
    padded=st.booleans(),
    keep_outputs=st.booleans(),
)


def check(estimate: MemoryEstimate) -> None:
    for band in estimate.bands.values():
        assert 0 < band.low_bytes <= band.likely_bytes <= band.high_bytes
    allocated = estimate.bands["allocated"]
    assert allocated.likely_bytes == estimate.peak_allocated_bytes
    for level in estimate.bands.keys() - {"allocated"}:
        assert estimate.bands[level].low_bytes >= allocated.low_bytes
        assert estimate.bands[level].likely_bytes >= allocated.likely_bytes
    assert estimate.moved_by
    assert MemoryEstimate.model_validate_json(estimate.model_dump_json()) == estimate
    sizes_known = [size for size in estimate.components_bytes.values() if size is not None]
    assert sum(sizes_known) == estimate.peak_allocated_bytes


@settings(max_examples=40, deadline=None)
@given(plan=plans)
def test_every_formula_reading_says_between_what_limits_it_lies(plan: FineTunePlan) -> None:
    estimate = read_formula(plan)
    check(estimate)
    assert ("total" in estimate.bands) is (plan.gpu_spec.name != "H100 SXM 80GB")
    assert list(read_formula(plan, device="cpu").bands) == ["allocated"]


@given(
    peak=st.integers(1, 2**40),
    reserved=st.none() | st.integers(1, 2**40),
    total=st.none() | st.integers(1, 2**40),
)
def test_what_was_measured_has_no_width(peak: int, reserved: int | None, total: int | None) -> None:
    estimate = MemoryEstimate(
        basis="measured",
        plan=TEXTBOOK,
        parameters=ParameterCounts(total=1, trainable=1),
        components_bytes={},
        phases_bytes={},
        peak_phase="backward",
        peak_allocated_bytes=peak,
        peak_reserved_bytes=reserved,
        total_bytes=total,
        seconds=1,
    )
    known: dict[Level, int | None] = {"allocated": peak, "reserved": reserved, "total": total}
    bands = measured_bands(estimate)
    assert bands.keys() == {level for level, size in known.items() if size is not None}
    for level, band in bands.items():
        assert {band.low_bytes, band.likely_bytes, band.high_bytes} == {known[level]}


def test_the_assumed_cache_is_what_published_steps_held() -> None:
    """The band's ends are the extremes of every published step that tells both sizes."""
    rows = (PROJECT / "bench" / "published" / "runs.jsonl").read_text().splitlines()
    steps = [json.loads(row) for row in rows]
    ratios = [
        step["peak_reserved_bytes"] / step["peak_allocated_bytes"]
        for step in steps
        if step["peak_reserved_bytes"]
    ]
    assert max(ratios) == pytest.approx(RESERVED_MOST, abs=0.005)
    assert min(ratios) >= 1
    assert min(ratios) < FRAGMENTATION_ASSUMED < max(ratios)


@pytest.fixture(scope="module")
def dry_runs() -> list[MemoryEstimate]:
    tiny = load_plan(PROJECT / "examples" / "tiny.yaml").changed(seq_len=64)
    with DryRuns() as runs:
        return [
            runs.dry_run(tiny),
            runs.dry_run(tiny.changed(method="qlora", gpu="Tesla T4")),
            runs.dry_run(tiny, device="cpu"),
        ]


def test_dry_runs_lie_in_the_bands_of_the_formula(dry_runs: list[MemoryEstimate]) -> None:
    for dry in dry_runs:
        check(dry)
        formula = read_formula(dry.plan, device=dry.device)
        assert formula.bands.keys() == dry.bands.keys()
        for level, band in formula.bands.items():
            assert band.low_bytes <= dry.bands[level].likely_bytes <= band.high_bytes, level


def test_dry_runs_stay_small_in_a_result_file(dry_runs: list[MemoryEstimate]) -> None:
    for dry in dry_runs:
        assert dry.timeline
        assert len(dry.timeline.at) <= 300
        assert len(dry.model_dump_json(indent=2)) < 100_000


def test_the_formulas_reserved_is_said_to_be_assumed() -> None:
    estimate = read_formula(TEXTBOOK.changed(gpu="Tesla T4"))
    assert [size.basis for size in sizes(estimate)] == ["formula", "assumed", "assumed"]
    allocated, reserved, _ = sizes(estimate)
    assert (allocated.likely, allocated.spread) == ("113.2 GiB", "110.9 to 115.4 GiB")
    assert reserved.likely == "124.5 GiB"
    assert estimate.peak_reserved_bytes is None
    assert context(estimate) == estimate.bands["total"].low_bytes - (
        estimate.bands["reserved"].low_bytes
    )


def test_results_without_bands_still_show_their_sizes() -> None:
    measured = read_formula(TEXTBOOK).model_copy(
        update={"basis": "measured", "bands": {}, "peak_reserved_bytes": 120 * GIB}
    )
    assert [size.likely for size in sizes(measured)] == ["113.2 GiB", "120.0 GiB", "not known"]
    assert {size.spread for size in sizes(measured)} == {""}


def test_the_terminal_says_which_number_is_which_and_what_moves_it() -> None:
    screen = io.StringIO()
    Console(width=80, file=screen).print(terminal.estimate(read_formula(TEXTBOOK)))
    text = screen.getvalue()
    row = next(line for line in text.splitlines() if "reserved by the allocator" in line)
    assert row.split("allocator")[1].split() == [
        *("124.5", "GiB", "110.9", "to", "162.8", "GiB", "assumed")
    ]
    assert "What moves it" in text
    assert "Higher: batches with padding" in text


def test_the_page_draws_each_band_and_the_gpu_within_sight() -> None:
    estimate = read_formula(TEXTBOOK.changed(method="qlora"))
    near, far = TEXTBOOK.changed(gpu="Tesla T4").gpu_spec, TEXTBOOK.changed(gpu="B200 180GB")
    figure = size_bands(estimate, near).to_dict()
    bars, dots = figure["data"]
    for index, level in enumerate(bars["y"]):
        band = estimate.bands[level]
        assert bars["base"][index] == band.low_bytes / GIB
        assert bars["base"][index] + bars["x"][index] == pytest.approx(band.high_bytes / GIB)
        assert dots["x"][index] == band.likely_bytes / GIB
    assert [line["x0"] for line in figure["layout"]["shapes"]] == [near.memory_gib]
    assert "shapes" not in size_bands(estimate, far.gpu_spec).to_dict()["layout"]


def test_the_band_of_a_formula_follows_its_peak() -> None:
    estimate = read_formula(TEXTBOOK)
    smaller = estimate.model_copy(update={"peak_allocated_bytes": 100 * GIB})
    assert formula_bands(smaller)["allocated"].likely_bytes == 100 * GIB
    assert formula_bands(smaller)["reserved"].likely_bytes == 110 * GIB
