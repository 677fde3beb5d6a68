"""Every bundled architecture is read by every method, or refused by name."""

from __future__ import annotations

from functools import cache

import pytest

from bench.sweep import METHODS, SweepRow, as_markdown, read, smallest_of_each_type

REFUSED = {
    ("llama4_text", "lora"): "router",  # looks linear, but returns two values
    ("llama4_text", "qlora"): "router",
    ("nemotron_h", "lora"): "out_proj",  # peft adapts no state space's output
    ("nemotron_h", "qlora"): "out_proj",
}
MODEL_TYPES = tuple(smallest_of_each_type())

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:FutureWarning",
    "ignore:.*:UserWarning",
    "ignore:The following (rank|alpha)_pattern keys:RuntimeWarning",  # peft's, of fused experts
)


@cache
def row(model_type: str) -> SweepRow:
    return read(smallest_of_each_type()[model_type])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_architecture_is_traced_or_refused_by_name(model_type: str) -> None:
    for method in METHODS:
        reading = row(model_type).readings[method]
        wrong = REFUSED.get((model_type, method))
        if wrong:
            assert wrong in reading.refusal
            assert "set adapter.target_modules" in reading.refusal
        else:
            assert reading.refusal == ""
            assert reading.peak_allocated_bytes
            assert ("quantised" in reading.unquantised) == (method == "qlora")


@pytest.mark.parametrize(
    ("model_type", "kernel"),
    [
        ("llama", "flash"),
        ("deepseek_v3", "efficient"),  # values are narrower than queries, which flash refuses
        ("falcon", "math"),  # one key head is broadcast, which no fused kernel takes
        ("gemma2", "eager"),  # scores are capped
        ("gemma4_text", "efficient, flash"),  # every sixth layer has heads of 512
        ("qwen3_next", "flash"),  # in the layers that are not linear attention
    ],
)
def test_attention_is_the_one_that_cuda_takes(model_type: str, kernel: str) -> None:
    assert row(model_type).readings["lora"].attention == kernel


def test_what_bitsandbytes_leaves_alone_is_said_with_its_size() -> None:
    assert "Nothing of this model is quantised" in row("falcon").readings["qlora"].unquantised
    assert "fused experts 2.82 B" in row("mixtral").readings["qlora"].unquantised
    assert "experts" not in row("llama").readings["qlora"].unquantised


def test_the_table_has_a_line_for_every_row() -> None:
    table = as_markdown([row("llama"), row("llama4_text")]).splitlines()
    assert len(table) == 4
    assert table[2].startswith("| llama |")
    assert "GiB (flash)" in table[2]
    assert "router" in table[3]
