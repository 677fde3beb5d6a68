"""The peaks beside the training step, against a real tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.flops import ModelShape, read_shape
from estimator.memory import read_formula
from estimator.models import resolve_model
from estimator.other_peaks import (
    OtherPeaks,
    evaluation_bytes,
    generation_bytes,
    kv_cache_bytes,
    read_other_peaks,
)
from estimator.plan import FineTunePlan, parse_plan

TINY = Path(__file__).resolve().parents[1] / "examples" / "tiny-llama"
FP32 = {"weights_dtype": "fp32", "autocast_dtype": "none"}


def tiny(**keys: Any) -> FineTunePlan:
    known = {"model": str(TINY), "method": "full", "micro_batch_size": 3, "seq_len": 128, **FP32}
    return parse_plan(known | keys)


def shape_of(plan: FineTunePlan) -> ModelShape:
    return read_shape(plan, resolve_model(plan.model))


def real_model(plan: FineTunePlan, **changes: Any) -> Any:
    import torch

    from trainer.untyped import transformers

    config = transformers.AutoConfig.from_pretrained(plan.model)
    make = transformers.AutoModelForCausalLM.from_config
    return make(config, dtype=torch.float32, **changes).eval()


def real_cache_bytes(model: Any, plan: FineTunePlan, num_tokens: int) -> int:
    import torch

    from trainer.untyped import transformers

    cache = transformers.DynamicCache(config=model.config)
    shape = (plan.micro_batch_size, num_tokens)
    with torch.no_grad():
        model(torch.ones(shape, dtype=torch.long), past_key_values=cache, use_cache=True)
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@pytest.mark.parametrize("num_tokens", [1, 100])
def test_the_cache_is_as_large_as_a_real_one(num_tokens: int) -> None:
    plan = tiny()
    expected = kv_cache_bytes(plan, shape_of(plan), num_tokens)
    assert real_cache_bytes(real_model(plan), plan, num_tokens) == expected


def test_a_sliding_window_keeps_the_window(tmp_path: Path) -> None:
    config = json.loads((TINY / "config.json").read_text())
    config |= {"model_type": "mistral", "sliding_window": 16, "architectures": []}
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = tiny(model=str(tmp_path))
    shape = shape_of(plan)
    # what the next token needs: the window less the token itself
    assert real_cache_bytes(real_model(plan), plan, 100) == kv_cache_bytes(plan, shape, 15)
    assert kv_cache_bytes(plan, shape, 100) == kv_cache_bytes(plan, shape, 16)


def peak_of(model: Any, run: Any) -> int:
    """Bytes at the fullest moment of ``run``, beside the model's own."""
    import torch

    from trainer.recorder import StorageRecorder

    recorder = StorageRecorder(vocab_size=model.config.vocab_size)
    with recorder, torch.no_grad():
        recorder.claim((*model.parameters(), *model.buffers()), "weights")
        recorder.reset_peak()
        before = recorder.live_bytes
        run()
    return recorder.peak_bytes - before


@pytest.mark.parametrize(
    "keys",
    [
        {"attention_backend": "efficient"},  # the logits are the fullest moment
        {"micro_batch_size": 2, "seq_len": 1024, "attention": "eager"},  # one layer's scores are
    ],
    ids=["logits", "scores"],
)
def test_evaluation_takes_what_a_real_batch_takes(keys: dict[str, Any]) -> None:
    import torch

    plan = tiny(**keys)
    model = real_model(plan, attn_implementation=plan.attention)
    ids = torch.ones((plan.micro_batch_size, plan.seq_len), dtype=torch.long)
    measured = peak_of(model, lambda: model(input_ids=ids, labels=ids, use_cache=False))
    assert measured == pytest.approx(evaluation_bytes(plan, shape_of(plan)), rel=0.03)


def test_generation_takes_what_real_generation_takes() -> None:
    import torch

    # 64 tokens of prompt, 64 new ones; a CPU has a fused kernel too
    plan = tiny(seq_len=128, attention_backend="efficient")
    model = real_model(plan)
    ids = torch.ones((plan.micro_batch_size, 64), dtype=torch.long)
    measured = peak_of(
        model,
        lambda: model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=64,
            min_new_tokens=64,
            do_sample=False,
            pad_token_id=0,
        ),
    )
    assert measured == pytest.approx(generation_bytes(plan, shape_of(plan)), rel=0.06)


def peaks(**keys: Any) -> OtherPeaks:
    known = {"model": "meta-llama/Llama-2-7b-hf", "method": "lora", "seq_len": 512}
    return read_other_peaks(read_formula(parse_plan(known | keys)))


def test_the_largest_use_of_the_gpu_is_named() -> None:
    found = peaks()
    assert found.largest == "training"
    assert found.gpu_bytes["training"] == max(size or 0 for size in found.gpu_bytes.values())
    estimate = read_formula(tiny(method="lora", autocast_dtype="bf16"))
    loads = estimate.phases_bytes | {"load": 2 * estimate.peak_allocated_bytes}
    assert read_other_peaks(estimate.model_copy(update={"phases_bytes": loads})).largest == "load"


def test_files_are_weights_and_states_or_the_adapter_alone() -> None:
    full = peaks(method="full", weights_dtype="fp32").disk_bytes
    assert full["download"] == 2 * 6_738_415_616  # float16 on the Hub
    assert full["result"] == 4 * 6_738_415_616
    assert full["checkpoint"] == (4 + 8) * 6_738_415_616
    adapter = peaks(method="qlora", optimizer="paged_adamw_32bit")
    assert adapter.disk_bytes["result"] == 4 * 39_976_960
    assert adapter.disk_bytes["checkpoint"] == (4 + 8) * 39_976_960
    assert adapter.host_bytes["optimizer_states"]
    assert peaks(device_map_load=False).host_bytes["loading"] == 2 * 6_738_415_616


def test_an_architecture_that_is_not_described_is_said() -> None:
    estimate = read_formula(parse_plan({"model": "Qwen/Qwen3-8B", "method": "lora"}))
    unknown = estimate.plan.model_copy(update={"model": "deepseek-ai/DeepSeek-V3"})
    found = read_other_peaks(estimate.model_copy(update={"plan": unknown}))
    assert found.gpu_bytes["evaluation"] is None
    assert "deepseek_v3" in found.unknown["gpu evaluation"]
    assert found.kv_cache_bytes is None
    assert found.gpu_bytes["saving"]
