"""What strategies cost over a workload: sums, ranges, break-evens, overrides, what is unknown."""

from __future__ import annotations

import io
import math
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from advisor.cost_models import MeasuredSpeed
from advisor.cost_report import CostReport, StrategyCost
from advisor.costs import reckon_costs
from advisor.scenario import load_scenario, parse_scenario
from estimator.cost_ledger import CostInput
from estimator.prices import PRICE_NAMES
from estimator.problems import InputError
from reports.break_even_words import cheaper_from
from reports.terminal_cost import costs, short_usd
from reports.units import count

SUPPORT_BOT = Path(__file__).parents[1] / "examples" / "support-bot.yaml"
TODAY = date(2026, 11, 22)
PLAN: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B",
    "method": "lora",
    "gpu": "H100 SXM 80GB",
    "data": {"num_examples": 5000, "tokens_per_example": 600},
}
WORKLOAD = {
    "requests_per_month": 60_000,
    "input_tokens": 1024,
    "output_tokens": 128,
    "corpus_tokens": 100_000,
    "pretraining_tokens": 10**9,
}


def reckon(
    workload: dict[str, Any] | None = None, *, draws: int = 20, seed: int = 0, **parts: Any
) -> CostReport:
    document = {"plan": PLAN, "workload": WORKLOAD | (workload or {})} | parts
    return reckon_costs(parse_scenario(document), today=TODAY, draws=draws, seed=seed)


def terminal(shown: RenderableType) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text()


def strategy(report: CostReport, id_: str) -> StrategyCost:
    return next(one for one in report.strategies if one.id == id_)


def input_(report: CostReport, name: str) -> CostInput:
    return next(one for one in report.inputs if one.name == name)


@pytest.fixture(scope="module")
def report() -> CostReport:
    return reckon({"growth_percent_per_month": 5, "success_usd": 20, "failure_usd": 88}, draws=300)


def test_items_add_up_to_totals_to_the_last_digit(report: CostReport) -> None:
    assert all(one.total_usd is not None for one in report.strategies)
    for one in report.strategies:
        amounts = {item.name: item.usd for item in one.lines if item.usd is not None}
        once = [item for item in one.lines if item.when == "one_time"]
        monthly = [item for item in one.lines if item.when in ("monthly", "per_request")]
        assert one.one_time_usd == sum(amounts[item.name] for item in once)
        assert one.monthly_usd == sum(amounts[item.name] for item in monthly)
        months = one.monthly_usd_by_month
        assert months is not None
        assert len(months) == 24
        assert months[0] == one.monthly_usd
        assert one.total_usd == one.one_time_usd + sum(months)
        assert one.cumulative_usd_by_month is not None
        assert one.cumulative_usd_by_month[-1] == one.total_usd


def test_an_item_can_be_redone_by_hand_from_its_inputs(report: CostReport) -> None:
    output = next(item for item in strategy(report, "prompt").lines if item.name == "output")
    assert output.formula == "answer x output price / 1M"
    assert set(output.inputs) == {"output_tokens", "api_output_mtok", "requests_per_month"}
    by_hand = Decimal(128) * input_(report, "api_output_mtok").mid / 10**6
    assert output.usd_per_request == by_hand
    assert output.usd == by_hand * 60_000
    training = next(item for item in strategy(report, "finetune").lines if item.name == "training")
    speed = input_(report, "training_tokens_per_second").mid
    hours = Decimal(5000 * 600 * 3) / speed / 3600
    assert training.usd == pytest.approx(5 * hours * input_(report, "training_gpu_hour").mid)


def test_the_first_token_of_a_served_model_takes_its_prompt_and_ten_milliseconds(
    report: CostReport,
) -> None:
    lines = strategy(report, "open_model").lines
    first = next(item for item in lines if item.name == "first_token")
    parameters = input_(report, "serving_active_parameters").mid
    peak = input_(report, "serving_gpu_flops").mid
    by_hand = 2 * parameters * 1024 / (Decimal("0.6") * peak) + Decimal("0.01")
    assert first.usd == pytest.approx(by_hand, abs=Decimal("0.000001"))


def test_every_input_names_where_it_comes_from_and_a_price_its_day(report: CostReport) -> None:
    for one in report.inputs:
        assert one.source
        assert one.low <= one.mid <= one.high
    assert input_(report, "requests_per_month").source == "workload.requests_per_month"
    assert input_(report, "trials").basis == "assumed"
    for name in ("api_input_mtok", "serving_gpu_hour", "embedding_mtok", "hosted_training_mtok"):
        assert input_(report, name).basis == "quoted"
        assert input_(report, name).checked_at is not None


@pytest.mark.parametrize(
    ("input_mtok", "output_mtok", "requests"),
    [("0.10", "0.50", 15.3e6), ("2", "10", 766e3), ("10", "50", 153e3)],
)
def test_an_always_on_h100_breaks_even_with_three_apis(
    input_mtok: str, output_mtok: str, requests: float
) -> None:
    found = reckon(
        {"cacheable_share": 0},
        prices={
            "gpu_hour": 3.49,
            "api_input_mtok": float(input_mtok),
            "api_output_mtok": float(output_mtok),
        },
    )
    pair = next(
        one for one in found.break_evens if (one.one, one.other) == ("prompt", "open_model")
    )
    assert pair.cheaper_at_first == "prompt"
    assert pair.running[0].cheaper_above == "open_model"
    assert pair.running[0].requests_per_month == pytest.approx(requests, rel=0.002)
    assert pair.in_all[0].requests_per_month > pair.running[0].requests_per_month


def test_prices_are_of_the_days_on_which_they_were_seen_not_of_today(report: CostReport) -> None:
    assert report.price_days is not None
    oldest, newest = report.price_days
    days = [input_(report, name).checked_at for name in ("api_input_mtok", "rerank_request")]
    assert all(day is not None and oldest <= day <= newest for day in days)
    assert oldest < newest < TODAY
    line = terminal(costs(report)).splitlines()[1]
    assert line.endswith(f"prices of {oldest} to {newest}")
    free = {name: 1.0 for name in PRICE_NAMES if ":" not in name}
    assert reckon(prices=free, draws=1).price_days is None


def test_growth_raises_each_month_and_requests_are_counted_whole(report: CostReport) -> None:
    assert report.requests_by_month is not None
    assert report.requests_by_month[:3] == (60_000, 63_000, 66_150)
    months = strategy(report, "prompt").monthly_usd_by_month
    assert months is not None
    assert list(months) == sorted(months)
    assert months[1] == pytest.approx(months[0] * Decimal("1.05"))


def test_ranges_lie_in_order_and_the_seed_draws_the_same(report: CostReport) -> None:
    for one in report.strategies:
        for found in (one.one_time_range, one.monthly_range, one.total_range):
            assert found is not None
            assert found.p10 <= found.p50 <= found.p90
        assert one.days_to_first_version is not None
        assert one.days_to_first_version.p10 <= one.days_to_first_version.p90
    assert reckon(seed=7) == reckon(seed=7)
    assert reckon(seed=7).strategies[0].total_range != reckon(seed=8).strategies[0].total_range
    assert reckon(seed=7).strategies[0].total_usd == reckon(seed=8).strategies[0].total_usd


def test_every_middle_that_is_shown_beside_a_range_lies_inside_it(report: CostReport) -> None:
    for one in report.strategies:
        total, days = one.total_range, one.days_to_first_version
        assert total is not None
        assert days is not None
        assert days.p10 <= days.p50 <= days.p90
        assert one.per_1000_range is not None
        assert one.monthly_range is not None
        assert one.cumulative_p50_by_month is not None
        assert one.cumulative_p50_by_month[-1] == total.p50
    new_model = strategy(report, "new_model")  # its middles add up to far less than its p50
    assert new_model.total_usd is not None
    assert new_model.total_range is not None
    assert new_model.total_usd < new_model.total_range.p50
    wide = terminal(costs(report))
    row = next(line for line in wide.splitlines() if line.strip().startswith("new_model"))
    assert short_usd(new_model.total_range.p50) in row
    assert short_usd(new_model.total_usd) not in row


def test_curves_cost_what_that_many_requests_cost(report: CostReport) -> None:
    assert report.curves is not None
    shown = report.curves.requests_per_month
    assert shown[:4] == (1, 2, 3, 4)
    assert shown[-1] == 10**10
    few = strategy(reckon({"requests_per_month": shown[2]}, draws=1), "rag")
    assert report.curves.running_usd["rag"][2] == pytest.approx(few.monthly_usd)


def test_judging_reads_what_was_retrieved(report: CostReport) -> None:
    def judging(id_: str) -> Decimal:
        lines = strategy(report, id_).lines
        item = next(one for one in lines if one.name == "evaluation_runs")
        assert item.usd is not None
        return item.usd

    names = ("trials", "evaluation_items", "retrieved_tokens", "api_input_mtok")
    by_hand = math.prod(input_(report, name).mid for name in names) / 10**6
    assert judging("rag+finetune") - judging("finetune") == by_hand


def test_the_tornado_names_only_what_the_strategy_rests_on(report: CostReport) -> None:
    for one in report.strategies:
        spreads = [bar.spread_usd for bar in one.tornado]
        assert spreads == sorted(spreads, reverse=True)
        used = {name for item in one.lines for name in item.inputs}
        assert {bar.input for bar in one.tornado} <= used
    bar = next(bar for bar in strategy(report, "rag").tornado if bar.input == "vector_store_month")
    assert bar.high_usd - bar.low_usd == pytest.approx(Decimal(24 * (500 - 20)))


def test_right_answers_pay_later_where_requests_cost_more(report: CostReport) -> None:
    assert report.break_even_accuracy == Decimal("0.8148")
    for one in report.strategies:
        assert one.break_even_accuracy is not None
        assert one.usd_per_1000_requests is not None
        share = (88 + one.usd_per_1000_requests / 1000) / 108
        assert one.break_even_accuracy == round(share, 4)


def test_prompts_are_cached_where_they_are_long_enough_and_batches_cost_half() -> None:
    def prompt(**workload: Any) -> dict[str, Decimal]:
        found = strategy(
            reckon({"cacheable_share": 0.5, "cache_hit_share": 0.9} | workload), "prompt"
        )
        return {item.name: item.usd for item in found.lines if item.usd is not None}

    short, long = prompt(input_tokens=1000), prompt(input_tokens=4000)
    assert short["cached_input"] == short["fresh_input"]  # 500 tokens are too few
    hits_and_misses = Decimal("0.9") * Decimal("0.1") + Decimal("0.1") * Decimal("1.25")
    assert long["cached_input"] == long["fresh_input"] * hits_and_misses
    batch = prompt(input_tokens=4000, in_batches=True)
    for name in ("fresh_input", "cached_input", "output"):
        assert batch[name] == long[name] / 2
    with pytest.raises(InputError, match=r"workload\.in_batches: true, and \S+ has no price"):
        reckon({"in_batches": True, "api_model": "gemini-3.7-flash"})


def test_rare_requests_find_nothing_in_a_cache_that_lives_for_minutes() -> None:
    cache = {"input_tokens": 20_000, "cacheable_share": 1, "cache_hit_share": 0.9}

    def per_request(requests: int) -> Decimal:
        found = strategy(reckon(cache | {"requests_per_month": requests}, draws=1), "prompt")
        item = next(item for item in found.lines if item.name == "cached_input")
        assert "1 - exp(-requests a second x lifetime" in item.formula
        assert {"requests_per_month", "cache_lifetime_seconds"} <= set(item.inputs)
        assert item.usd_per_request is not None
        return item.usd_per_request

    found = reckon(cache, draws=1)
    price, lifetime = input_(found, "api_input_mtok").mid, 1800  # gpt-6-sol: half an hour
    plain = 20_000 * price / 10**6
    assert per_request(100) == plain  # one in 7 hours: written each time, hardly ever read
    assert per_request(10**6) == plain * Decimal("0.215")  # 0.9 x 0.1 + 0.1 x 1.25
    hits = 1 - math.exp(-1000 / 2_628_000 * lifetime)
    by_hand = float(plain) * (hits * 0.1 + (1 - hits) * 1.25)
    assert float(per_request(1000)) == pytest.approx(by_hand)
    curves = found.curves
    assert curves is not None
    for volume, usd in zip(curves.requests_per_month, curves.running_usd["prompt"], strict=True):
        if volume in (100, 1000, 10**6):
            output = 128 * input_(found, "api_output_mtok").mid / 10**6
            assert usd == pytest.approx((per_request(volume) + output) * volume)


@pytest.mark.parametrize(
    ("model", "least", "lifetime"),
    [
        ("gpt-6-sol", 1024, 1800),
        ("claude-opus-4-7", 2048, 300),
        ("claude-opus-5-5", 512, 300),
        ("gemini-3.8-flash", 4096, None),
    ],
)
def test_what_a_provider_documents_of_its_cache_stands_in_place_of_assumptions(
    model: str, least: int, lifetime: int | None
) -> None:
    found = reckon({"api_model": model}, draws=1)
    tokens, kept = input_(found, "least_cached_tokens"), input_(found, "cache_lifetime_seconds")
    assert (tokens.low, tokens.mid, tokens.high) == (least, least, least)
    assert tokens.basis == "quoted"
    assert tokens.checked_at is not None
    assert tokens.source.startswith("https://")
    assert kept.basis == ("assumed" if lifetime is None else "quoted")
    assert lifetime is None or kept.mid == lifetime


def test_cached_prices_keep_their_ratio_to_a_price_that_is_set() -> None:
    found = reckon(prices={"api_input_mtok": 4})
    assert input_(found, "api_cached_read_mtok").mid == Decimal("0.4")
    assert input_(found, "api_cache_write_mtok").mid == 5
    both = reckon(prices={"api_input_mtok": 4, "api_cached_read_mtok": 1})
    assert input_(both, "api_cached_read_mtok").mid == 1


def test_a_gpu_price_is_that_of_the_gpu_it_names() -> None:
    def hours(**prices: float) -> dict[str, str]:
        found = reckon({"gpu": "RTX 4090"}, prices=prices, draws=1)
        shown = [one for one in found.warnings if "prices.gpu_hour is taken for" in one]
        assert bool(shown) == ("gpu_hour" in prices)
        assert all("RTX 4090" in one and "`gpu_hour:H100 SXM 80GB`" in one for one in shown)
        inputs = {one.name: one for one in found.inputs}
        names = ("training_gpu_hour", "serving_gpu_hour", "pretraining_gpu_hour")
        return {
            name.removesuffix("_gpu_hour"): inputs[name].source.removeprefix("prices.")
            for name in names
            if inputs[name].basis == "scenario"
        }

    h100, rtx = "gpu_hour:H100 SXM 80GB", "gpu_hour:RTX 4090"
    assert hours(**{h100: 2}) == {"training": h100, "pretraining": h100}
    assert hours(**{rtx: 0.7}) == {"serving": rtx}
    assert hours(**{h100: 2, "training_gpu_hour": 1}) == {
        "training": "training_gpu_hour",
        "pretraining": h100,
    }
    everything = hours(**{"gpu_hour": 1, h100: 2})
    assert everything == {"training": h100, "serving": "gpu_hour", "pretraining": h100}


def test_weights_in_4_bits_serve_on_no_more_gpus() -> None:
    found = reckon({"gpu": "RTX 4090", "requests_per_month": 20_000_000})
    whole, quantised = strategy(found, "finetune"), strategy(found, "finetune_4bit")
    assert whole.monthly_usd is not None
    assert quantised.monthly_usd is not None
    assert quantised.monthly_usd < whole.monthly_usd
    assert quantised.one_time_usd == whole.one_time_usd


def test_a_run_gives_its_speed_and_its_gpu() -> None:
    measured = MeasuredSpeed("RTX 4090", 2500.0, PLAN["model"], "qlora", "run abc")
    scenario = parse_scenario({"plan": PLAN, "workload": WORKLOAD})
    found = reckon_costs(scenario, today=TODAY, draws=5, measured=measured)
    speed = input_(found, "training_tokens_per_second")
    assert (speed.mid, speed.basis, speed.source) == (2500, "measured", "run abc")
    assert "RTX 4090" in input_(found, "training_gpu_hour").label
    assert any("qlora of" in one and "run abc" in one for one in found.warnings)


def test_a_scenario_without_workload_says_what_is_paid_once() -> None:
    found = reckon_costs(parse_scenario({"plan": PLAN}), today=TODAY, draws=5)
    for one in found.strategies:
        assert one.monthly_usd is one.total_usd is one.usd_per_1000_requests is None
        assert one.unknown
    prompt = strategy(found, "prompt")
    assert prompt.one_time_usd is not None
    assert prompt.one_time_range is not None
    assert prompt.days_to_first_version is not None
    assert found.curves is None
    assert any("has no workload" in reason for reason in prompt.unknown)


def test_what_costs_least_at_every_volume_is_said_of_those_reckoned_alone() -> None:
    workload = {"corpus_tokens": None, "few_shot_tokens": 50, "cacheable_share": 0}
    shown = terminal(costs(reckon(workload, plan=None)))
    assert "At every volume prompt costs least of those reckoned (prompt, few_shot)." in shown


def test_break_evens_say_never_always_where_first_and_whether_it_holds() -> None:
    found = reckon({"cacheable_share": 0}, draws=1)
    assert found.curves is not None

    def cell(best: str, other: str) -> str:
        return cheaper_from(found, best, other, "running")

    assert cell("prompt", "long_context") == "never"
    assert cell("long_context", "prompt") == "always"
    assert cell("open_model", "new_model") == "the same"
    pair = next(
        one for one in found.break_evens if (one.one, one.other) == ("prompt", "open_model")
    )
    first = count(pair.running[0].requests_per_month)
    assert len(pair.running) == 1
    assert cell("prompt", "open_model") == first
    assert cell("open_model", "prompt") == f"below {first}"
    back = [one for one in found.break_evens if len(one.running) > 1]
    assert back  # the next GPU makes it dearer again
    for one in back:
        later = one.running[0].cheaper_above
        earlier = one.one if later == one.other else one.other
        assert cell(earlier, later).endswith(" (not throughout)")
        assert cell(later, earlier).endswith(" (and again above)")
    unknown = terminal(costs(reckon({"corpus_tokens": 5_000_000}, draws=1)))
    row = next(line for line in unknown.splitlines() if "not reckoned" in line)
    assert row.split() == ["long_context", *["not", "reckoned"] * 2]


def test_a_scenario_without_plan_reckons_with_apis_alone() -> None:
    found = reckon_costs(parse_scenario({"workload": WORKLOAD}), today=TODAY, draws=5)
    known = {one.id for one in found.strategies if one.total_usd is not None}
    assert known == {"prompt", "few_shot", "long_context", "rag"}
    assert any("has no plan" in reason for reason in strategy(found, "finetune").unknown)
    closed = {"workload": WORKLOAD, "answers": {"weights": "closed_only"}}
    reasons = reckon_costs(parse_scenario(closed), today=TODAY, draws=5).strategies[-1].unknown
    assert any("workload.api_model" in one and "hosted_provider" in one for one in reasons)
    hosted = reckon({"api_model": "gpt-4o", "hosted_provider": "OpenAI"}, draws=1)
    assert "OpenAI" in input_(hosted, "hosted_training_mtok").label  # as the advice says
    nothing = reckon_costs(parse_scenario({}), today=TODAY, draws=5)
    assert all(one.total_usd is None for one in nothing.strategies)


def test_documents_that_fit_no_context_leave_long_context_unknown() -> None:
    found = strategy(reckon({"corpus_tokens": 5_000_000}), "long_context")
    assert found.total_usd is None
    assert any("do not fit the context" in reason for reason in found.unknown)
    none = reckon({"corpus_tokens": None}, answers={"corpus": "none"})
    assert "there are no documents (answers: corpus none)" in strategy(none, "rag").unknown


def test_a_plan_that_does_not_fit_its_gpu_is_reckoned_where_it_fits() -> None:
    found = reckon_costs(load_scenario(SUPPORT_BOT), today=TODAY, draws=5)
    assert strategy(found, "finetune").total_usd is not None
    assert any("does not fit RTX 4090" in one for one in found.warnings)
    assert "RTX 4090" not in input_(found, "training_gpu_hour").label


def test_hosted_fine_tuning_ends_with_its_provider() -> None:
    workload = {"hosted_provider": "openai"}
    hosted = strategy(reckon(workload), "finetune_hosted")
    assert hosted.available_until == date(2027, 1, 6)
    assert hosted.one_time_usd is not None
    assert hosted.monthly_usd is None  # how a tuned model is served is not in the snapshot
    scenario = parse_scenario({"plan": PLAN, "workload": WORKLOAD | workload})
    later = reckon_costs(scenario, today=date(2027, 1, 7), draws=5)
    assert strategy(later, "finetune_hosted").one_time_usd is None
    reasons = strategy(later, "finetune_hosted").unknown
    assert any("no new fine-tuning jobs after 2027-01-06" in reason for reason in reasons)
    prices = {"hosted_input_mtok": 0.3, "hosted_output_mtok": 1.2}
    served = strategy(reckon(workload, prices=prices), "finetune_hosted")
    assert served.monthly_usd is not None


def test_hosted_fine_tuning_is_cheapest_with_its_serving_not_by_its_training_alone() -> None:
    def total(found: CostReport) -> Decimal:
        usd = strategy(found, "finetune_hosted").total_usd
        assert usd is not None
        return usd

    chosen = reckon(draws=1)
    others = {
        name: reckon({"hosted_provider": name}, draws=1)
        for name in ("Crusoe", "Fireworks", "Together")
    }
    assert total(chosen) == min(map(total, others.values()))
    training = {name: input_(found, "hosted_training_mtok").mid for name, found in others.items()}
    assert "Together" in input_(chosen, "hosted_training_mtok").label
    assert training["Together"] > min(training.values())
    assert any("reckoned with Together" in one and "Crusoe" in one for one in chosen.warnings)


@pytest.mark.parametrize(
    ("workload", "where"),
    [
        ({"api_model": "gpt-6-soll"}, "workload.api_model: .* did you mean gpt-6-sol"),
        ({"gpu": "H1000"}, "workload.gpu: "),
        ({"hosted_provider": "Fireworkz"}, "workload.hosted_provider: .*did you mean Fireworks"),
        ({"label_usd_low": 1}, "workload.label_usd_high"),
        ({"success_usd": 1}, "workload.failure_usd"),
        ({"success_usd": 0, "failure_usd": 0}, "workload.success_usd"),
    ],
)
def test_a_wrong_name_is_a_problem_that_names_the_close_one(
    workload: dict[str, Any], where: str
) -> None:
    with pytest.raises(InputError, match=where):
        reckon(workload)


PER_REQUEST = ("prompt", "few_shot", "long_context", "rag")


@settings(max_examples=12, deadline=None)
@given(
    fewer=st.integers(0, 10**8),
    more=st.integers(1, 10**8),
    input_tokens=st.integers(0, 50_000),
    cacheable_share=st.floats(0, 1),
)
def test_more_requests_never_cost_less(
    fewer: int, more: int, input_tokens: int, cacheable_share: float
) -> None:
    workload = {
        "input_tokens": input_tokens,
        "cacheable_share": cacheable_share,
        "cache_hit_share": 0,  # more requests keep a cache alive, which may make them cheaper
    }
    small = reckon(workload | {"requests_per_month": fewer}, draws=1)
    large = reckon(workload | {"requests_per_month": fewer + more}, draws=1)
    for one, other in zip(small.strategies, large.strategies, strict=True):
        assert one.monthly_usd is not None
        assert other.monthly_usd is not None
        assert other.monthly_usd >= one.monthly_usd
        assert other.one_time_usd == one.one_time_usd
        if one.id in PER_REQUEST and one.usd_per_1000_requests and other.usd_per_1000_requests:
            rounding = Decimal("0.01")
            assert other.usd_per_1000_requests <= one.usd_per_1000_requests + rounding


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(
        [
            "api_output_mtok",
            "serving_gpu_hour",
            "training_gpu_hour",
            "pretraining_gpu_hour",
            "hosted_training_mtok",
            "embedding_mtok",
            "rerank_request",
            "label",
            "engineer_hour",
        ]
    ),
    usd=st.floats(0, 1000),
)
def test_a_price_moves_only_what_rests_on_it(name: str, usd: float) -> None:
    before, after = reckon(draws=1), reckon(draws=1, prices={name: usd})
    also = {f"long_{name}"} if name.startswith("api_") else set()
    for one, other in zip(before.strategies, after.strategies, strict=True):
        for item, changed in zip(one.lines, other.lines, strict=True):
            if not {name, *also} & set(item.inputs):
                assert changed == item
    assert input_(after, name).basis == "scenario"
    assert input_(after, name).mid == Decimal(str(usd))
