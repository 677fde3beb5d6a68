"""What is trained of a model, and in which types, for every method."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from cpu_truth import Case

from estimator.models import resolve_model
from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer.build import Training, build_training, prepare
from trainer.data import random_batches
from trainer.skeleton import build_skeleton, transformers_config
from trainer.step import StepHooks, training_step
from trainer.weights import fill_at_random

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")


def training(plan: FineTunePlan) -> Training:
    torch.manual_seed(0)
    config = transformers_config(resolve_model(plan.model).config, plan.model)
    base = build_skeleton(plan, config, plan.model)
    fill_at_random(base, plan, torch.device("cpu"))
    return build_training(prepare(base, plan), plan, on_cuda=False)


def losses(made: Training, num_steps: int) -> list[float]:
    batch = next(random_batches(made.plan, 2048, torch.device("cpu")))
    return [
        training_step(
            made, repeat(batch), num_micro_steps=1, on_cuda=False, hooks=StepHooks()
        ).item()
        for _ in range(num_steps)
    ]


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "full", "loss": "liger"},
        {"method": "full", "optimizer": "adamw_8bit"},
        {"method": "full", "optimizer": "adafactor", "loss": "chunked"},
        {"method": "last_layers", "num_trained_layers": 1, "checkpointing_reentrant": True},
        {"method": "lora", "adapter": {"use_rslora": True}, "optimizer": "lion_8bit"},
        {"method": "lora", "adapter": {"use_dora": True, "target_modules": ["q_proj"]}},
        {"method": "qlora", "adapter": {"modules_to_save": ["embed_tokens", "lm_head"]}},
        {"method": "qlora", "quantization": "fp4", "checkpointing_reentrant": True},
        {"method": "prompt_tuning"},
        {"method": "prefix_tuning"},
        {"method": "ia3", "quantization": "nf4"},
    ],
    ids=lambda keys: " ".join(str(value) for value in keys.values()),
)
def test_every_method_learns(tmp_path: Path, keys: dict[str, Any]) -> None:
    made = training(Case("llama", keys | {"seq_len": 64}).plan(tmp_path))
    before = [parameter.detach().clone() for parameter in made.parameters]
    first, *_, last = losses(made, 3)
    assert last < first
    moved = [bool((old != new).any()) for old, new in zip(before, made.parameters, strict=True)]
    assert all(moved)


def test_8_bit_optimizers_keep_the_states_of_embeddings_in_32_bits(tmp_path: Path) -> None:
    made = training(
        Case("llama", {"method": "full", "optimizer": "adamw_8bit", "seq_len": 64}).plan(tmp_path)
    )
    losses(made, 1)
    embedding = made.model.get_input_embeddings().weight
    types = {
        parameter is embedding: made.optimizer.state[parameter]["state1"].dtype
        for parameter in made.parameters
        if parameter.numel() > 4096  # smaller ones are in 32 bits anyway
    }
    assert types == {True: torch.float32, False: torch.uint8}


def test_modules_trained_whole_keep_the_models_type_and_the_adapter_has_its_own(
    tmp_path: Path,
) -> None:
    adapter = {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}
    keys = {"method": "lora", "weights_dtype": "bf16", "adapter": adapter}
    made = training(Case("llama", keys).plan(tmp_path))
    whole = [one for one in made.parameters if one.numel() == 2048 * 128]
    assert [one.dtype for one in whole] == [torch.bfloat16]
    assert {one.dtype for one in made.parameters if one not in set(whole)} == {torch.float32}


def test_ia3_takes_the_layers_of_a_model_that_names_its_own_alike(tmp_path: Path) -> None:
    made = training(Case("olmo2", {"method": "ia3"}).plan(tmp_path))  # peft does not list it
    names = [name for name, one in made.model.named_parameters() if one.requires_grad]
    assert len(names) == 2 * 3
    assert {name.split(".")[-3] for name in names} == {"k_proj", "v_proj", "down_proj"}


def test_ia3_is_refused_by_name_where_nothing_is_alike(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which layers of a codegen ia3 scales") as caught:
        training(Case("codegen", {"method": "ia3"}).plan(tmp_path))
    assert caught.value.problems[0].fix
