"""The formulas of cost: the worked cases of published guides, and what was measured."""

from __future__ import annotations

from decimal import Decimal

import pytest

from estimator.cost import (
    Server,
    break_even_accuracy,
    first_token_seconds,
    gpus_needed,
    gpus_per_copy,
    requests_per_second,
    training_hours,
    uses_until_cache_pays,
)

H100_FLOPS = 989.4e12
QWEN3_8B = Server(
    active_parameters=7.57e9,  # without the embeddings, which are looked up
    weight_bytes=16.4e9,
    kv_bytes_per_token=36 * 2 * 8 * 128 * 2,
    gpu_memory_bytes=79.11 * 2**30,
    bandwidth=3350e9,
    peak_flops=H100_FLOPS,
    memory_share=0.9,
    bandwidth_share=0.68,
    compute_share=0.6,
    max_sequences=256,
)


def test_openai_help_desk_pays_from_81_5_percent_on() -> None:
    failure = Decimal("0.95") * 40 + Decimal("0.05") * 1000  # to a person, or a lost customer
    accuracy = break_even_accuracy(Decimal(20), failure)
    assert failure == 88
    assert round(accuracy, 3) == Decimal("0.815")
    # a request that costs two dollars has to be right more often
    assert break_even_accuracy(Decimal(20), failure, Decimal(2)) == Decimal(90) / 108


@pytest.mark.parametrize(("read", "write", "use"), [("0.1", "1.25", 2), ("0.1", "2", 3)])
def test_a_cached_prompt_pays_from_the_second_or_third_use_on(
    read: str, write: str, use: int
) -> None:
    assert uses_until_cache_pays(Decimal(read), Decimal(write)) == use

    def cached(uses: int) -> Decimal:
        return Decimal(write) + (uses - 1) * Decimal(read)

    assert cached(use) < use
    assert cached(use - 1) >= use - 1


@pytest.mark.parametrize(("billions", "dollars"), [(1, 294), (7, 14_400), (13, 49_700)])
def test_a_model_from_scratch_costs_what_20_tokens_a_parameter_take(
    billions: int, dollars: int
) -> None:
    parameters = billions * 1e9
    hours = training_hours(parameters, 20 * parameters, 6, H100_FLOPS, 0.4)
    assert hours * 3.49 == pytest.approx(dollars, rel=0.003)


def test_lora_of_an_8b_on_nine_million_tokens_takes_12_minutes_and_70_cents() -> None:
    attention = 2 * 32 * 2048 * 4096  # layers x sequence length x width
    hours = training_hours(7.505e9, 9e6, 4, H100_FLOPS, 0.4, attention)
    assert hours * 60 == pytest.approx(12, abs=0.5)
    assert hours * 3.49 == pytest.approx(0.70, abs=0.01)


# silybench, 2026-09: Qwen3-8B in bf16 on one H100 SXM, requests a second within its latency target
MEASURED = [
    (128, 128, 14_539.5 / 128),
    (1024, 128, 3_017.7 / 128),
    (128, 1024, 13_322.0 / 1024),
    (2048, 2048, 2_814.7 / 2048),
]


@pytest.mark.parametrize(("input_tokens", "output_tokens", "measured"), MEASURED)
def test_capacity_is_near_what_was_measured_on_an_h100(
    input_tokens: int, output_tokens: int, measured: float
) -> None:
    found = requests_per_second(QWEN3_8B, float(input_tokens), float(output_tokens))
    assert found == pytest.approx(measured, rel=0.25)


def test_a_model_too_large_for_one_gpu_takes_several() -> None:
    llama_70b = {"active_parameters": 69e9, "weight_bytes": 141e9}
    server = Server(**{name: getattr(QWEN3_8B, name) for name in Server.__slots__} | llama_70b)
    assert gpus_per_copy(QWEN3_8B) == 1
    assert gpus_per_copy(server) == 3
    assert gpus_needed(server, 0.0, 1024.0, 128.0, 0.5) == 3  # always on, even without requests
    assert gpus_needed(QWEN3_8B, 100e6, 1024.0, 128.0, 0.5) == 3


def test_the_first_token_waits_for_the_prompt() -> None:
    short, long = (first_token_seconds(QWEN3_8B, tokens, 0.010) for tokens in (1.0, 1024.0))
    assert short == pytest.approx(0.010, abs=0.001)
    assert long == pytest.approx(0.036, abs=0.003)
