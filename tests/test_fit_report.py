"""What fits a GPU: limits, methods, changes, the stack, and which GPU is cheapest."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.changes import with_keys
from estimator.cheapest import cheapest_gpus
from estimator.estimate import GpuFit, MemoryEstimate
from estimator.fit_report import FitReport, read_fit
from estimator.gpus import bundled_gpus
from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan, parse_plan
from estimator.prices_gpu import gpu_prices, snapshot_path, write_prices
from estimator.reader import NotConfirmed

LLAMA_2 = "meta-llama/Llama-2-7b-hf"
LLAMA_3 = "meta-llama/Llama-3.1-8B"
FULL = {"model": LLAMA_2, "method": "full", "weights_dtype": "fp32", "seq_len": 512}
TWO_GPUS = {"strategy": "ddp", "data_parallel_size": 2}
GIB = 2**30


def fit(**keys: Any) -> FitReport:
    return read_fit(parse_plan(keys))


def verdict(plan: FineTunePlan, **changes: Any) -> str:
    changed = plan.changed(**changes)
    return read_formula(changed).fit(changed.gpu_spec).fits


@pytest.fixture(scope="module")
def qlora() -> FitReport:
    return fit(model=LLAMA_3, method="qlora", gpu="RTX 4090")


def test_a_full_fine_tune_of_llama_2_7b_does_not_fit_an_rtx_4090() -> None:
    report = fit(**FULL, gpu="RTX 4090")
    assert report.fits == "no"
    assert report.headroom_bytes < -80 * GIB
    assert report.micro_batch_limit.value is None
    assert report.seq_len_limit.value is None
    assert {one.method: one.fits for one in report.methods} == {
        "full": "no",
        "last_layers": "no",
        "lora": "yes",
        "qlora": "yes",
    }


@pytest.mark.parametrize(
    ("model", "gpu", "method"),
    [(LLAMA_2, "RTX 4090", "lora"), ("meta-llama/Llama-2-13b-hf", "RTX 4090", "qlora")],
)
def test_the_stack_ends_in_the_mildest_method_that_fits(model: str, gpu: str, method: str) -> None:
    report = fit(**FULL | {"model": model}, gpu=gpu)
    assert report.stack_fits == "yes"
    assert report.stack[-1].keys["method"] == method


def test_an_8b_qlora_fits_and_its_limits_are_the_last_that_do(qlora: FitReport) -> None:
    assert qlora.fits == "yes"
    batch, length = qlora.micro_batch_limit.value, qlora.seq_len_limit.value
    assert batch is not None
    assert length is not None
    assert verdict(qlora.plan, micro_batch_size=batch) == "yes"
    assert verdict(qlora.plan, micro_batch_size=batch + 1) != "yes"
    assert length % 64 == 0
    assert verdict(qlora.plan, seq_len=length) == "yes"
    assert verdict(qlora.plan, seq_len=length + 64) != "yes"
    assert qlora.trained_length == 131_072
    document = qlora.to_document()
    assert document["largest_micro_batch_size"] == batch
    assert document["longest_seq_len"] == length
    assert document["confirmed_by"] is None


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(["full", "lora", "qlora"]),
    st.sampled_from(["RTX 4090", "A100 80GB SXM", "B200 180GB"]),
    st.integers(1, 64),
    st.integers(100, 5000),
    st.booleans(),
)
def test_whatever_the_plan_the_answers_hold(
    method: str, gpu: str, batch: int, length: int, checkpoints: bool
) -> None:
    plan = parse_plan(
        {
            "model": LLAMA_2,
            "method": method,
            "gpu": gpu,
            "micro_batch_size": batch,
            "seq_len": length,
            "gradient_checkpointing": checkpoints,
        }
    )
    report = read_fit(plan)
    limit = report.micro_batch_limit
    assert (report.fits == "yes") == (limit.fits == "yes" and (limit.value or 0) >= batch)
    for change in report.changes:
        changed = with_keys(plan, change.keys)
        now, then = read_formula(plan), read_formula(changed)
        assert then.peak_allocated_bytes == change.peak_allocated_bytes
        assert now.peak_allocated_bytes - then.peak_allocated_bytes == change.saves_bytes
        assert then.fit(plan.gpu_spec).fits == change.fits
        if change.training == "same":
            assert changed.global_batch_size == plan.global_batch_size
    disturbance = ["same", "nearly", "different"]
    ranks = [disturbance.index(change.training) for change in report.changes]
    assert ranks == sorted(ranks)
    if report.stack_fits == "yes":
        stacked = plan
        for change in report.stack:
            assert verdict(stacked) != "yes", "one more change than is needed"
            stacked = with_keys(stacked, change.keys)
            peak = read_formula(stacked).peak_allocated_bytes
            assert peak == change.peak_allocated_bytes
        assert verdict(stacked) == "yes"


def test_more_memory_never_allows_less() -> None:
    sizes = []
    for gpu in ("RTX 4080", "RTX 4090", "L40S", "A100 80GB SXM", "B200 180GB"):
        report = fit(model=LLAMA_3, method="qlora", gpu=gpu)
        sizes.append((report.micro_batch_limit.value, report.seq_len_limit.value))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_each_change_says_what_it_does_to_the_training() -> None:
    report = fit(
        model=LLAMA_3,
        method="lora",
        gpu="RTX 4090",
        micro_batch_size=8,
        gradient_checkpointing=False,
        keep_outputs=True,
        optimizer="adamw_torch",
    )
    kinds = {change.kind: change.training for change in report.changes}
    assert {kind for kind, training in kinds.items() if training == "same"} == {
        "keep_outputs",
        "optimizer_kernel",
        "gradient_checkpointing",
        "micro_batch_size",
    }
    assert kinds["optimizer"] == "nearly"
    for kind in ("method", "adapter.r", "adapter.target_modules", "seq_len"):
        assert kinds[kind] == "different"
    assert any("chunked" in reason for reason in report.not_read)


def test_where_no_formula_holds_nothing_is_made_up() -> None:
    with pytest.raises(NoFormula, match="ddp"):
        fit(model=LLAMA_3, method="qlora", parallel=TWO_GPUS)


def traced(plan: FineTunePlan, factor: float = 1.0) -> MemoryEstimate:
    """What a dry run may say: so many times what the formula does, in its proportions."""
    try:
        estimate = read_formula(plan)
    except NoFormula as refusal:
        raise NotConfirmed(refusal.reason) from refusal
    parts = {kind: round((size or 0) * factor) for kind, size in estimate.components_bytes.items()}
    peak = sum(parts.values())
    found = {
        "basis": "dry-run",
        "components_bytes": parts,
        "peak_allocated_bytes": peak,
        "peak_reserved_bytes": round(1.05 * peak),
        "smallest_fit_bytes": peak,
    }
    return estimate.model_copy(update=found)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.3])
def test_a_dry_run_corrects_the_formula(qlora: FitReport, factor: float) -> None:
    made: list[FineTunePlan] = []

    def confirm(plan: FineTunePlan) -> MemoryEstimate:
        made.append(plan)
        return traced(plan, factor)

    report = read_fit(qlora.plan, confirm=confirm)
    assert report.confirmed_by == "dry-run"
    assert report.num_dry_runs == len(made) <= 14
    assert len(made) == len({one.model_dump_json() for one in made}), "one was made twice"
    batch = report.micro_batch_limit
    assert batch.is_exact
    assert batch.value is not None
    for size, fits in ((batch.value, True), (batch.value + 1, False)):
        changed = qlora.plan.changed(micro_batch_size=size)
        assert (confirm(changed).fit(changed.gpu_spec).fits == "yes") is fits
    length = report.seq_len_limit.value
    assert length is not None
    changed = qlora.plan.changed(seq_len=length)
    assert confirm(changed).fit(changed.gpu_spec).fits == "yes"
    by_formula = qlora.seq_len_limit.value or 0
    assert length < by_formula if factor == 1.3 else length >= by_formula


def test_a_stack_that_the_dry_run_refuses_is_made_stronger() -> None:
    plan = parse_plan({**FULL, "gpu": "RTX 4090", "micro_batch_size": 16})
    by_formula = read_fit(plan)
    report = read_fit(plan, confirm=lambda one: traced(one, 1.3))
    assert report.stack_confirmed_by == "dry-run"
    assert report.stack_fits == "yes"
    last = report.stack[-1].peak_allocated_bytes
    assert last < by_formula.stack[-1].peak_allocated_bytes


def test_where_only_the_dry_run_says_no_there_is_a_stack_too(qlora: FitReport) -> None:
    plan = qlora.plan.changed(micro_batch_size=3)
    assert read_fit(plan).fits == "yes"
    report = read_fit(plan, confirm=lambda one: traced(one, 1.3))
    assert report.fits == "no"
    assert [change.kind for change in report.stack] == ["micro_batch_size"]
    assert report.stack_fits == "yes"


def test_without_a_formula_a_handful_of_dry_runs_answers(qlora: FitReport) -> None:
    """Two GPUs have no formula; what a dry run would say is taken from one."""

    def confirm(plan: FineTunePlan) -> MemoryEstimate:
        alone = traced(plan.changed(parallel={"strategy": "none"}))
        return alone.model_copy(update={"plan": plan})

    report = read_fit(qlora.plan.changed(parallel=TWO_GPUS), confirm=confirm)
    assert report.num_dry_runs <= 24
    assert report.basis == "dry-run"
    assert report.micro_batch_limit.value == 3
    assert report.micro_batch_limit.is_exact
    assert report.changes
    assert all(change.basis == "dry-run" for change in report.changes)


def test_a_dry_run_that_breaks_leaves_the_formula_unconfirmed(qlora: FitReport) -> None:
    def confirm(plan: FineTunePlan) -> MemoryEstimate:
        raise NotConfirmed("the worker broke")

    report = read_fit(qlora.plan, confirm=confirm)
    assert report.confirmed_by is None
    assert report.micro_batch_limit == qlora.micro_batch_limit
    assert "the worker broke" in report.not_read


def test_the_cheapest_gpu_is_checked_and_gives_its_place_where_it_does_not_fit(
    qlora: FitReport,
) -> None:
    first = qlora.cheapest_gpus[0].gpu

    def confirm(plan: FineTunePlan) -> MemoryEstimate:
        return traced(plan, 3.0 if plan.gpu_spec.name == first else 1.0)

    report = read_fit(qlora.plan, confirm=confirm)
    assert report.cheapest_gpus[0].gpu != first
    assert report.cheapest_gpus[0].confirmed_by == "dry-run"
    assert first not in [one.gpu for one in report.cheapest_gpus if one.fits == "yes"]


def test_offers_come_by_price_those_with_room_first_and_unknown_prices_last(
    qlora: FitReport,
) -> None:
    with_room = [one for one in qlora.cheapest_gpus if one.fits == "yes"]
    assert qlora.cheapest_gpus[: len(with_room)] == tuple(with_room)
    prices = [one.usd_per_hour for one in with_room if one.usd_per_hour is not None]
    assert prices == sorted(prices)
    assert [one.usd_per_hour for one in with_room[: len(prices)]] == prices
    unknown = with_room[len(prices) :]
    assert unknown
    assert all(one.provider is None and one.source is None for one in unknown)


def test_a_gpu_rented_only_by_the_dozen_costs_them_all() -> None:
    name = "MI355X 288GB"
    of_others = {price.gpu for price in gpu_prices()}
    assert name not in of_others
    eight = replace(gpu_prices()[0], gpu=name, usd_per_gpu_hour=Decimal("0.79"), min_gpus=8)
    snapshot_path().parent.mkdir(parents=True)
    snapshot_path().write_text(write_prices([eight]), encoding="utf-8")
    (offer,) = cheapest_gpus([GpuFit(name=name, memory_bytes=1, fits="yes", headroom_bytes=0)])
    assert (offer.usd_per_hour, offer.min_gpus) == (Decimal("6.32"), 8)


def test_every_price_is_of_a_bundled_gpu_with_a_date_and_a_source() -> None:
    names = {gpu.name for gpu in bundled_gpus()}
    assert len(gpu_prices()) > 40
    for price in gpu_prices():
        assert price.gpu in names
        assert price.usd_per_gpu_hour > 0
        assert date(2026, 1, 1) <= price.checked_at
        assert price.source
