"""The dry run against what is true: real quantisation, published GPU runs, a plan's own keys."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from estimator.estimate import MemoryEstimate
from estimator.models import resolve_model
from estimator.plan import FineTunePlan, parse_plan
from estimator.problems import InputError
from trainer.dryrun import dry_run
from trainer.skeleton import (
    build_skeleton,
    pack_on_meta,
    quantization_tensors,
    transformers_config,
)
from trainer.weights import fill_at_random, load_pretrained

PROJECT = Path(__file__).parents[1]
PUBLISHED = PROJECT / "bench" / "published"
TINY = str(PROJECT / "examples" / "tiny-llama")

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")


def plan(**keys: Any) -> FineTunePlan:
    return parse_plan({"model": TINY, "method": "lora", "seq_len": 128} | keys)


@cache
def published_runs() -> dict[str, dict[str, Any]]:
    lines = (PUBLISHED / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    return {run["id"]: run for run in map(json.loads, lines)}


@pytest.mark.parametrize(
    ("run_id", "tolerance"),
    [
        ("t4-phase3-7", 0.001),  # LoRA, memory-efficient attention, nothing quantised
        ("t4-phase3-12", 0.002),  # QLoRA, NF4, grouped heads
        ("t4-sweep-20", 0.002),  # QLoRA with eager attention
        ("rtx4080-Qwen__Qwen2.5-1.5B-Instruct_qlora_s1024_b1_r16_steps3", 0.002),
    ],
)
def test_it_meets_published_gpu_runs(run_id: str, tolerance: float) -> None:
    run = published_runs()[run_id]
    model = str(PUBLISHED / "models" / run["plan"]["model"])
    estimate = dry_run(parse_plan(run["plan"] | {"model": model}))
    assert estimate.peak_allocated_bytes == pytest.approx(
        run["peak_allocated_bytes"], rel=tolerance
    )
    assert estimate.parameters.trainable == run.get("trainable_params", 4_358_144)
    assert estimate.peak_reserved_bytes is not None
    assert estimate.smallest_fit_bytes is not None
    assert estimate.peak_allocated_bytes <= estimate.smallest_fit_bytes
    assert estimate.smallest_fit_bytes <= estimate.peak_reserved_bytes


def test_mixed_precision_with_adam_holds_sixteen_bytes_a_parameter() -> None:
    estimate = dry_run(plan(method="full", weights_dtype="fp32"))
    states = estimate.components_bytes
    # The rotary frequencies are buffers among the weights; blocks are multiples of 512 bytes.
    held = sum(states[kind] or 0 for kind in ("weights", "gradients", "optimizer_states"))
    assert held == pytest.approx(16 * estimate.parameters.total, rel=0.01)
    assert estimate.parameters.trainable == estimate.parameters.total == 935_040


def test_components_are_where_the_method_puts_them() -> None:
    full, lora, qlora = (dry_run(plan(method=one)) for one in ("full", "lora", "qlora"))
    assert full.components_bytes["adapters"] == 0
    assert lora.components_bytes["adapters"] == lora.components_bytes["gradients"]
    assert qlora.components_bytes["quantization_state"]
    assert (qlora.components_bytes["weights"] or 0) < (lora.components_bytes["weights"] or 0)
    assert lora.components_bytes["optimizer_states"] == pytest.approx(
        2 * (lora.components_bytes["adapters"] or 0), rel=0.1
    )
    for estimate in (full, lora, qlora):
        assert estimate.components_bytes["workspace"]
        assert max(size or 0 for size in estimate.phases_bytes.values()) == (
            estimate.peak_allocated_bytes
        )


def peak(**keys: Any) -> int:
    return dry_run(plan(**keys)).peak_allocated_bytes


def test_it_grows_with_what_there_is_more_of() -> None:
    assert peak(seq_len=64) < peak(seq_len=128) < peak(seq_len=256)
    assert peak(micro_batch_size=1) < peak(micro_batch_size=2)
    assert peak(adapter={"r": 8}) < peak(adapter={"r": 64})
    assert peak(gradient_checkpointing=True) < peak(gradient_checkpointing=False)
    assert peak(method="full", optimizer="adamw_8bit") < peak(method="full")
    assert peak(method="full") < peak(method="full", optimizer="adamw_torch_foreach")
    assert peak(gradient_accumulation_steps=1) <= peak(gradient_accumulation_steps=8)


@pytest.mark.parametrize(
    ("keys", "kernel"),
    [
        ({"gpu": "RTX 4090"}, "flash"),
        ({"gpu": "Tesla T4"}, "math"),  # no flash there, and efficient wants as many key heads
        ({"gpu": "Tesla T4", "attention_backend": "efficient"}, "efficient"),
        ({"gpu": "RTX 4090", "method": "qlora", "autocast_dtype": "none"}, "math"),
        ({"gpu": "RTX 4090", "padded": True}, "efficient"),
        ({"gpu": "RTX 4090", "attention": "flash_attention_2"}, "flash"),
        ({"gpu": "RTX 4090", "attention_backend": "math"}, "math"),
    ],
)
def test_attention_takes_the_kernel_that_pytorch_would(keys: Any, kernel: str) -> None:
    said = " ".join(dry_run(plan(**keys)).assumptions)
    assert f"on the {kernel} kernel" in said


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("double_quant", [True, False])
def test_packed_shapes_are_those_of_real_quantisation(
    quantization: str, double_quant: bool
) -> None:
    chosen = plan(method="qlora", quantization=quantization, double_quant=double_quant)
    config = transformers_config(resolve_model(chosen.model).config, chosen.model)
    packed = build_skeleton(chosen, config, chosen.model)
    pack_on_meta(packed, chosen)
    real = build_skeleton(chosen, config, chosen.model)
    fill_at_random(real, chosen, torch.device("cpu"))
    loaded = load_pretrained(Path(TINY), config, chosen, torch.device("cpu"))
    assert layout(packed) == layout(real) == layout(loaded)


def layout(model: Any) -> dict[str, Any]:
    """Every parameter's shape and type, with the tensors beside a quantised one."""
    return {
        name: [(tuple(t.shape), t.dtype) for t in (parameter, *quantization_tensors(parameter))]
        for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize(
    ("keys", "where", "what"),
    [
        ({"adapter": {"target_modules": ["nothing_proj"]}}, "target_modules", "nothing_proj"),
        ({"method": "bitfit"}, "method", "no"),
        ({"method": "qlora", "adapter": {"use_dora": True}}, "use_dora", "probe"),
        ({"parallel": {"strategy": "zero3", "data_parallel_size": 8}}, "strategy", "zero3"),
        ({"adapter": {"modules_to_save": ["nothing"]}}, "modules_to_save", "nothing"),
        ({"method": "last_layers", "num_trained_layers": 5}, "num_trained_layers", "4 layers"),
    ],
)
def test_what_does_not_suit_the_model_is_a_problem_with_a_fix(
    keys: Any, where: str, what: str
) -> None:
    with pytest.raises(InputError) as caught:
        dry_run(plan(**keys))
    (problem,) = caught.value.problems
    assert where in problem.where
    assert what in problem.what
    assert problem.fix


def test_an_architecture_that_transformers_does_not_know_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "perceptron_9000"}')
    with pytest.raises(InputError, match="perceptron_9000"):
        dry_run(plan(model=str(tmp_path)))


def test_an_estimate_survives_json(tiny_plan: FineTunePlan) -> None:
    estimate = dry_run(tiny_plan)
    assert MemoryEstimate.model_validate_json(estimate.model_dump_json()) == estimate


def test_a_checkpoint_that_is_quantised_already_is_not_read_as_if_it_were_not(
    tmp_path: Path,
) -> None:
    config = json.loads((Path(TINY) / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="already quantised"):
        dry_run(plan(model=str(tmp_path)))
