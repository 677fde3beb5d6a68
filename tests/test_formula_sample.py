"""The formula against the dry run, on 200 plans drawn at random over the dense families.

The models are as people train them on small GPUs, cut to two layers: wide enough that a
block's unused rest (up to 1 MiB, which only the allocator's replay knows) is not what is measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from estimator.allocator import replay
from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan, parse_plan
from estimator.problems import InputError

SEED = 20
NUM_PLANS = 200
PLANS_A_TEST = 20
"""So that each test ends in time on a slow machine, and workers can share them."""

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 128},
    "smollm3": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "granite": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "olmo2": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "gemma": {"head_dim": 128, "hidden_act": "gelu_pytorch_tanh"},
    "gemma2": {"head_dim": 128, "sliding_window": 4096},
    "gemma3_text": {
        "head_dim": 128,
        "sliding_window": 4096,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi3": {"pad_token_id": 0, "sliding_window": None},
    "stablelm": {},
    "starcoder2": {},
    "phi": {},
    "gpt_neox": {},
    "gpt2": {},
    "opt": {},
}
"""What each family's config.json has beside the sizes drawn for it."""

ALL_KEY_HEADS = ("gpt_neox", "gpt2", "opt")
"""Families that have as many key heads as query heads."""

METHODS = (
    *("full", "last_layers", "lora", "lora", "lora", "qlora", "qlora", "qlora"),
    *("ia3", "bitfit", "prompt_tuning"),
)

WITHOUT = {
    "bitfit": (
        *("llama", "mistral", "qwen3", "smollm3", "granite"),
        *("olmo2", "gemma", "gemma2", "gemma3_text", "phi3"),
    ),
    "ia3": ("phi3",),
}
"""Families without biases, and those for which peft has no list."""

PRECISIONS = (
    {"weights_dtype": "bf16", "autocast_dtype": "bf16"},
    {"weights_dtype": "bf16", "autocast_dtype": "none"},
    {"weights_dtype": "fp32", "autocast_dtype": "bf16"},
    {"weights_dtype": "fp32", "autocast_dtype": "none"},
    {"weights_dtype": "fp16", "autocast_dtype": "fp16"},
)


def draw_config(random: Random, family: str) -> dict[str, Any]:
    """Return a config.json of a family, with sizes drawn for it."""
    heads = random.choice((8, 12, 16))
    head_dim = random.choice((64, 128))
    hidden = heads * head_dim
    inner = random.choice((3, 4)) * hidden - random.choice((0, 256))
    config = {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // random.choice((1, 1, 2, 4)),
        "vocab_size": random.choice((16_000, 32_000, 50_304)),
        "max_position_embeddings": 4096,
        "tie_word_embeddings": random.choice((True, False)),
        **FAMILIES[family],
    }
    if family in ALL_KEY_HEADS:
        del config["num_key_value_heads"]
        config |= {"n_inner": inner, "ffn_dim": inner}  # what GPT-2 and OPT call it
    return config


def draw_plan(random: Random, model: str, family: str) -> dict[str, Any]:
    """Return a plan's document; not every draw is a possible plan."""
    methods = [method for method in METHODS if family not in WITHOUT.get(method, ())]
    method = random.choice(methods)
    precision = random.choice(PRECISIONS)
    in_16_bits = "fp16" if "fp16" in precision.values() else "bf16"
    document = {
        "model": model,
        "method": method,
        "num_trained_layers": random.choice((1, 2)),
        "adapter": {
            "r": random.choice((8, 16, 64)),
            "dropout": random.choice((0.0, 0.0, 0.05)),
            "target_modules": "all-linear",
            "dtype": random.choice(("fp32", "fp32", in_16_bits)),
        },
        "optimizer": random.choice(
            ("adamw_torch_fused", "adamw_torch", "adamw_8bit", "adafactor", "sgd", "lion_32bit")
        ),
        "gradient_checkpointing": random.choice((True, False)),
        "gradient_accumulation_steps": random.choice((1, 2)),
        "keep_outputs": random.choice((False, False, True)),
        "attention": random.choice(("sdpa", "sdpa", "eager")),
        "padded": random.choice((False, False, True)),
        "micro_batch_size": random.choice((1, 2, 4, 8)),
        "seq_len": random.choice((1000, 1024, 2048)),
        "gpu": random.choice(("A100 80GB SXM", "RTX 4090", "Tesla T4")),
        **precision,
    }
    if method == "qlora":
        document["quantization"] = random.choice(("nf4", "nf4", "int8"))
        document["kbit_preparation"] = random.choice((True, True, False))
    return document


def sample(folder: Path, *, num_plans: int = NUM_PLANS) -> list[FineTunePlan]:
    """Return plans drawn with a fixed seed; their models' configurations lie in ``folder``."""
    random = Random(SEED)
    plans: list[FineTunePlan] = []
    while len(plans) < num_plans:
        family = random.choice(tuple(FAMILIES))
        path = folder / f"{family}-{len(plans)}.json"
        config, document = draw_config(random, family), draw_plan(random, str(path), family)
        path.write_text(json.dumps(config))
        try:
            plans.append(parse_plan(document))
        except InputError:  # keys that contradict each other
            continue
    return plans


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> list[FineTunePlan]:
    return sample(tmp_path_factory.mktemp("models"))


def test_few_plans_are_refused(plans: list[FineTunePlan]) -> None:
    refused = []
    for plan in plans:
        try:
            read_formula(plan)
        except NoFormula as error:
            refused.append(error.reason)
    assert len(refused) <= NUM_PLANS // 10, "\n".join(refused)


@pytest.mark.filterwarnings(
    "ignore:.*:FutureWarning",  # peft asks transformers an old question
    "ignore:fan_in_fan_out:UserWarning",  # peft's, of GPT-2's layers, which it then sets right
)
@pytest.mark.parametrize("first", range(0, NUM_PLANS, PLANS_A_TEST))
def test_the_formula_is_within_one_percent_of_the_dry_run(
    plans: list[FineTunePlan], first: int
) -> None:
    from trainer.dryrun import trace_step

    wrong = []
    for plan in plans[first : first + PLANS_A_TEST]:
        try:
            formula = read_formula(plan)
        except NoFormula:
            continue
        traced_bytes = replay(trace_step(plan).trace).peak_allocated_bytes
        off = formula.peak_allocated_bytes / traced_bytes - 1
        if abs(off) > 0.01:
            config = Path(plan.model).read_text()
            wrong.append(f"{off:+.2%} {config} {plan.model_dump_json(exclude_defaults=True)}")
    assert not wrong, "\n".join(wrong)
