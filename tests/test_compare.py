from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.compare import compare_methods, under_method
from estimator.plan import FineTunePlan, Method, parse_plan
from estimator.problems import InputError


def plan(**keys: object) -> FineTunePlan:
    return parse_plan({"model": "meta-llama/Llama-2-7b-hf", "method": "lora", **keys})


@pytest.mark.parametrize(
    ("keys", "method", "weights", "adapter"),
    [
        # mixed precision: what is trained in fp32, what is frozen in 16 bits
        ({"method": "lora"}, "full", "fp32", "fp32"),
        ({"method": "qlora"}, "full", "fp32", "fp32"),
        ({"method": "full", "weights_dtype": "fp32"}, "lora", "bf16", "fp32"),
        (
            {"method": "full", "weights_dtype": "fp32", "autocast_dtype": "fp16"},
            "lora",
            "fp16",
            "fp32",
        ),
        ({"method": "lora", "weights_dtype": "fp32"}, "qlora", "fp32", "fp32"),
        ({"method": "lora", "weights_dtype": "fp16"}, "full", "fp32", "fp32"),
        # pure: one type for everything
        ({"method": "lora", "autocast_dtype": "none"}, "full", "bf16", "fp32"),
        ({"method": "full", "autocast_dtype": "none"}, "lora", "bf16", "bf16"),
        (
            {"method": "full", "weights_dtype": "fp32", "autocast_dtype": "none"},
            "qlora",
            "fp32",
            "fp32",
        ),
    ],
)
def test_precision_follows_what_is_trained(
    keys: dict[str, object], method: Method, weights: str, adapter: str
) -> None:
    other = under_method(plan(**keys), method)
    assert other.weights_dtype == weights
    assert other.adapter.dtype == adapter
    assert other.autocast_dtype == plan(**keys).autocast_dtype


def test_there_and_back_is_the_plan_it_was() -> None:
    full = plan(method="full", weights_dtype="fp32")
    assert under_method(under_method(full, "lora"), "full") == full
    lora = plan(method="lora")
    assert under_method(under_method(lora, "full"), "lora") == lora


def test_the_method_of_the_plan_leaves_it_as_it_is() -> None:
    unusual = plan(method="full", weights_dtype="bf16")
    assert under_method(unusual, "full") is unusual


def test_qlora_keeps_the_four_bits_that_the_plan_chose() -> None:
    four_bits = plan(method="lora", quantization="fp4")
    assert under_method(four_bits, "qlora").quantization == "fp4"
    assert under_method(four_bits, "full").quantization == "none"
    assert under_method(plan(method="qlora", quantization="fp4"), "lora").quantization == "none"
    assert under_method(plan(method="full"), "qlora").quantization == "nf4"


def test_a_full_fine_tune_compared_from_lora_takes_sixteen_bytes() -> None:
    (full,) = compare_methods(plan(method="lora"), ["full"])
    kinds = ("weights", "gradients", "optimizer_states")
    assert sum(full.components_bytes[kind] or 0 for kind in kinds) == 16 * 6_738_415_616


@settings(max_examples=150, deadline=None)
@given(
    keys=st.fixed_dictionaries(
        {
            "method": st.sampled_from(get_args(Method)),
            "weights_dtype": st.sampled_from(["bf16", "fp16", "fp32"]),
            "autocast_dtype": st.sampled_from(["none", "bf16", "fp16"]),
            "attention": st.sampled_from(["sdpa", "flash_attention_2"]),
            "gradient_checkpointing": st.booleans(),
            "adapter": st.fixed_dictionaries({"use_dora": st.booleans()}),
        },
        optional={"quantization": st.sampled_from(["none", "nf4", "fp4", "int8"])},
    ),
    method=st.sampled_from(get_args(Method)),
)
def test_every_plan_can_be_compared_under_every_method(
    keys: dict[str, object], method: Method
) -> None:
    try:
        possible = plan(**keys)
    except InputError:
        return
    assert under_method(possible, method).method == method
