"""CUDA's choices, checked on the CPU: kernels, autocast, what kernels take meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch user knows
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from estimator.gpu_facts import attention_backend
from estimator.gpus import find_gpu
from estimator.plan import FineTunePlan
from trainer.cuda_autocast import FP32_OPERATIONS, FP32_RESULTS, cuda_autocast
from trainer.cuda_semantics import AnotherPath
from trainer.dryrun import dry_run

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")


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
