import pytest

from estimator.documents import apply_overrides
from estimator.fit import WeighedChange, changes_that_fit
from estimator.memory import read_formula
from estimator.plan import FineTunePlan, parse_plan

GIB = 2**30


def plan(**keys: object) -> FineTunePlan:
    return parse_plan(
        {
            "model": "meta-llama/Llama-2-7b-hf",
            "method": "lora",
            "seq_len": 4096,
            "micro_batch_size": 8,
            "gradient_accumulation_steps": 4,
            **keys,
        }
    )


def changed(old: FineTunePlan, change: WeighedChange) -> FineTunePlan:
    """The plan after typing ``--set`` and the change."""
    document = apply_overrides(old.to_document(), change.override.split(" --set "))
    if document["method"] != old.method:
        del document["quantization"]  # a plan file leaves it to follow the method
    return parse_plan(document)


@pytest.mark.parametrize("capacity", [8 * GIB, 16 * GIB, 24 * GIB, 40 * GIB])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_what_is_offered_fits_with_cache_and_context(method: str, capacity: int) -> None:
    large = plan(method=method, gradient_checkpointing=False)
    now = read_formula(large).peak_allocated_bytes
    for change in changes_that_fit(large, capacity):
        then = read_formula(changed(large, change))
        assert then.peak_allocated_bytes == change.peak_allocated_bytes <= 0.98 * now
        assert then.comfortable_need_bytes <= capacity


def test_a_peak_that_just_fits_is_not_offered_on_a_gpu() -> None:
    """The cache and the context need room too; on a CPU there are neither."""
    half = plan(micro_batch_size=4, gradient_accumulation_steps=8)
    peak = read_formula(half).peak_allocated_bytes
    text = "micro_batch_size=4 --set gradient_accumulation_steps=8"
    assert text not in [one.override for one in changes_that_fit(plan(), peak + GIB // 10)]
    enough = read_formula(half).comfortable_need_bytes
    assert text in [one.override for one in changes_that_fit(plan(), enough)]
    on_cpu = read_formula(half, device="cpu").peak_allocated_bytes
    assert text in [one.override for one in changes_that_fit(plan(), on_cpu, device="cpu")]


@pytest.mark.parametrize("size", [2, 6, 7, 9, 16])
def test_a_smaller_micro_batch_keeps_the_global_batch(size: int) -> None:
    large = plan(micro_batch_size=size)
    found = changes_that_fit(large, 1000 * GIB)
    batches = [one for one in found if one.override.startswith("micro_batch_size=")]
    assert batches
    for change in batches:
        then = changed(large, change)
        assert then.micro_batch_size < size
        assert then.global_batch_size == large.global_batch_size


def test_a_change_that_saves_next_to_nothing_is_not_offered() -> None:
    """LoRA's optimizer states are tiny: 8 bits for them do not make a plan fit."""
    found = changes_that_fit(plan(), 1000 * GIB)
    assert found
    assert not [one for one in found if "optimizer" in one.override]


def test_nothing_is_offered_where_nothing_fits() -> None:
    assert changes_that_fit(plan(), GIB // 4) == []


def test_frozen_weights_go_to_16_bits_with_the_method() -> None:
    full = plan(method="full", weights_dtype="fp32", micro_batch_size=1)
    found = {one.override for one in changes_that_fit(full, 40 * GIB)}
    assert "method=lora --set weights_dtype=bf16" in found
