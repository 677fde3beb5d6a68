"""CUDA's choices, checked on the CPU: kernels, autocast, what kernels take meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch user knows
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from estimator.gpu_facts import attention_backend
from estimator.gpus import find_gpu
from estimator.plan import FineTunePlan
from trainer.cuda_attention import efficient_backward_temporaries
from trainer.cuda_autocast import FP32_OPERATIONS, FP32_RESULTS, cuda_autocast
from trainer.cuda_kernels import KernelTemporaries
from trainer.cuda_semantics import AnotherPath
from trainer.dryrun import dry_run
from trainer.recorder import StorageRecorder

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:FutureWarning",
    "ignore:The following (rank|alpha)_pattern keys:RuntimeWarning",  # peft's, of fused experts
)


@pytest.mark.parametrize(
    ("gpu", "query", "kernel"),
    [
        ("RTX 4090", {"head_dim": 256}, "flash"),
        ("RTX 4090", {"head_dim": 256, "dropout": True}, "efficient"),
        ("RTX 4090", {"head_dim": 208}, "efficient"),  # no backward on the consumer generations
        ("A100 80GB SXM", {"head_dim": 208}, "flash"),
        ("A100 80GB SXM", {"head_dim": 264}, "efficient"),
        ("A100 80GB SXM", {"head_dim": 192, "value_head_dim": 128}, "efficient"),
        ("A100 80GB SXM", {"head_dim": 100}, "flash"),  # padded to 104
        ("A100 80GB SXM", {"head_dim": 100, "masked": True}, "math"),  # rows are not aligned
        ("A100 80GB SXM", {"head_dim": 100, "float_type": "fp32"}, "efficient"),
        ("A100 80GB SXM", {"head_dim": 128, "masked": True}, "efficient"),
        ("A100 80GB SXM", {"head_dim": 128, "float_type": "fp32", "grouped": True}, "math"),
        ("A100 80GB SXM", {"head_dim": 128, "grouped": True, "broadcast": True}, "math"),
        ("Tesla T4", {"head_dim": 128, "float_type": "fp16"}, "efficient"),
        ("Tesla T4", {"head_dim": 128}, "math"),  # bf16
    ],
)
def test_attention_takes_the_kernel_that_pytorch_would(
    tiny_plan: FineTunePlan, gpu: str, query: dict[str, Any], kernel: str
) -> None:
    asked = {"float_type": "bf16", "masked": False, "grouped": False} | query
    assert attention_backend(tiny_plan, gpu=find_gpu(gpu), **asked) == kernel


@pytest.mark.parametrize("name", [*FP32_OPERATIONS, *FP32_RESULTS])
def test_cudas_autocast_knows_the_operation_and_the_cpus_does_not(name: str) -> None:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    assert has_kernel(f"aten::{name}", "AutocastCUDA")
    assert not has_kernel(f"aten::{name}", "AutocastCPU")


def test_under_autocast_norms_powers_and_sums_come_out_in_32_bits_and_then_no_longer() -> None:
    values = torch.ones(2, 8, dtype=torch.bfloat16, requires_grad=True)

    def dtypes() -> set[torch.dtype]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = (
                F.layer_norm(values, (8,)),
                values.pow(3.0),
                values.sum(dim=1),
                torch.softmax(values, -1),
                torch.cumsum(values, 0),
            )
        torch.stack([one.sum() for one in made]).sum().backward()
        return {one.dtype for one in made}

    with cuda_autocast():
        assert dtypes() == {torch.float32}
    assert dtypes() == {torch.bfloat16}


def test_a_dtype_that_is_asked_for_is_kept() -> None:
    values = torch.ones(2, 8, dtype=torch.bfloat16)
    with cuda_autocast(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert values.sum(dim=1, dtype=torch.bfloat16).dtype is torch.bfloat16
        assert torch.softmax(values, -1, torch.float64).dtype is torch.float64


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"attention": "eager"},
        {"gradient_checkpointing": False, "gradient_accumulation_steps": 1},
        {"method": "last_layers", "num_trained_layers": 1},
        {"method": "prompt_tuning"},
    ],
)
def test_a_step_whose_attention_is_all_accounted_for_is_estimated(
    tiny_plan: FineTunePlan, keys: dict[str, Any]
) -> None:
    assert dry_run(tiny_plan.changed(**keys)).peak_allocated_bytes


def test_attention_that_takes_another_path_is_an_error_that_says_so(
    tiny_plan: FineTunePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(module: Any, query: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, None]:
        return query.transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", elsewhere)
    with pytest.raises(
        AnotherPath, match=r"0 attention kernel calls .* 4 attention layers .*torch"
    ):
        dry_run(tiny_plan)


def test_nothing_of_a_step_outlives_it(tiny_plan: FineTunePlan, tmp_path: Path) -> None:
    experts = {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 64}
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 64}
    config = {"model_type": "qwen3_moe"} | experts | sizes | heads
    (tmp_path / "config.json").write_text(json.dumps(config))
    phases = dry_run(tiny_plan.changed(model=str(tmp_path), seq_len=2048)).phases_bytes
    held, most = phases["optimizer"], phases["backward"]
    assert held is not None
    assert most is not None
    assert held < 0.75 * most


def bytes_at_once(gpu: str, run: Callable[[], Any]) -> int:
    """The most that an operation and its kernels' temporaries hold at one time."""
    recorder = StorageRecorder(vocab_size=0)
    with recorder, KernelTemporaries(find_gpu(gpu)):
        run()
    return recorder.peak_bytes


def test_an_embeddings_backward_sorts_many_ids_and_sums_their_gradients() -> None:
    def backward(count: int) -> int:
        gradient, ids = torch.ones(count, 32), torch.zeros(count, dtype=torch.long)
        function = torch.ops.aten.embedding_dense_backward
        return bytes_at_once("RTX 4090", lambda: function(gradient, ids, 100, -1, False))

    weight_bytes = 100 * 32 * 4
    assert backward(3072) == weight_bytes
    rows = 100 + 400  # one for each kind of token, one for every tenth token
    assert backward(4000) == weight_bytes + rows * 32 * 4 + (3 * 4000 + 2 * 100 + rows) * 8


@pytest.mark.parametrize(
    ("gpu", "head_dim", "expected"),
    [
        ("A100 80GB SXM", 64, 2 * 128 * 64),
        ("A100 80GB SXM", 128, 2 * 128 * 128),
        ("Tesla T4", 64, 2 * 128 * 64),
        ("Tesla T4", 128, 2 * (128 * 128 + 2 * 64 * 256)),  # dk and dv do not fit the registers
    ],
)
def test_the_efficient_kernels_backward_sums_dq_in_32_bits(
    gpu: str, head_dim: int, expected: int
) -> None:
    query = torch.empty(1, 2, 128, head_dim, dtype=torch.float16)
    taken = efficient_backward_temporaries(find_gpu(gpu), query, query, query)
    row_sums = 2 * 128
    assert sum(one.numel() * one.itemsize for one in taken) == 4 * (row_sums + expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_are_multiplied_in_16_and_in_32_bits(dtype: torch.dtype) -> None:
    rows, experts = torch.ones(6, 16, dtype=dtype), torch.ones(2, 16, 10, dtype=dtype)
    ends = torch.tensor([2, 6], dtype=torch.int32)
    with KernelTemporaries(find_gpu("RTX 4090")):
        product = torch.ops.aten._grouped_mm(rows, experts, ends)
    assert product.shape == (6, 10)
    assert product.dtype is dtype
    assert product.stride(0) * dtype.itemsize % 16 == 0


def test_clipping_keeps_partial_norms_of_every_tensor() -> None:
    tensors = [torch.ones(70_000), torch.ones(5)]
    peak = bytes_at_once("RTX 4090", lambda: torch.ops.aten._foreach_norm(tensors, 2))
    assert peak == 2 * 4 + 2 * 2 * 4  # two results; two chunks for each of two tensors
