import json
from pathlib import Path

import pytest

from estimator.plan import FineTunePlan, load_plan, parse_plan
from estimator.problems import InputError

MINIMAL = {"model": "Qwen/Qwen3-8B", "method": "lora"}


def plan(**keys: object) -> FineTunePlan:
    return parse_plan({**MINIMAL, **keys})


def problems(**keys: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        plan(**keys)
    return [str(problem) for problem in caught.value.problems]


def test_model_and_method_are_enough() -> None:
    step = plan()
    assert step.optimizer == "adamw_torch_fused"
    assert step.quantization == "none"
    assert step.tokens_per_micro_batch == 2048
    assert step.global_batch_size == 16


def test_qlora_means_four_bits_unless_the_plan_says_otherwise() -> None:
    assert plan(method="qlora").quantization == "nf4"
    assert plan(method="qlora", quantization="int8").quantization == "int8"
    assert plan(method="qlora").changed(method="full").quantization == "none"
    assert plan(method="lora").changed(method="qlora").quantization == "nf4"


def test_the_effective_plan_reads_back_as_itself(tmp_path: Path) -> None:
    gpu = {"name": "Mine", "memory_gib": 20.5}
    adapter = {"r": 8, "target_modules": ["q_proj", "v_proj"], "dropout": 0.05}
    step = plan(method="qlora", gpu=gpu, adapter=adapter, max_grad_norm=None, epochs=0.5)
    for name, text in (("p.yaml", step.to_yaml()), ("p.json", json.dumps(step.to_document()))):
        (tmp_path / name).write_text(text)
        assert load_plan(tmp_path / name) == step


def test_words_of_yaml_1_2_stay_words_and_numbers_numbers(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("model: no\nmethod: lora\nseq_len: 0x400\nepochs: 1e0\npadded: true\n")
    step = load_plan(path)
    assert (step.model, step.seq_len, step.epochs, step.padded) == ("no", 1024, 1.0, True)
    path.write_text("model: on\nmethod: lora\npadded: yes\n")
    with pytest.raises(InputError, match=r"padded: 'yes' is not allowed"):
        load_plan(path)


def test_overrides_lie_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("model: Qwen/Qwen3-8B\nmethod: lora\nadapter: {r: 4, alpha: 8}\n")
    overrides = ["adapter.r=64", "max_grad_norm=null", "adapter.target_modules=[q_proj]"]
    step = load_plan(path, [*overrides, "gpu=T4"])
    assert (step.adapter.r, step.adapter.alpha, step.max_grad_norm) == (64, 8, None)
    assert step.adapter.target_modules == ("q_proj",)
    assert step.gpu == "Tesla T4"
    assert load_plan(path).adapter.r == 4


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seq_len", "is not an override"),
        ("=4", "is not an override"),
        ("adapter.=4", "is not an override"),
        ("model.x=4", "does not lead into a mapping"),
        ("seq_len={", "is not a YAML value"),
        ("seq_len=long", "'long' is not allowed"),
        ("seqlen=4", "did you mean seq_len"),
    ],
)
def test_a_wrong_override_is_a_problem(tmp_path: Path, override: str, says: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("model: Qwen/Qwen3-8B\nmethod: lora\n")
    with pytest.raises(InputError, match=says):
        load_plan(path, [override])


def test_a_model_beside_the_plan_file_is_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "train.jsonl").touch()
    path = tmp_path / "plan.yaml"
    path.write_text("model: tiny\nmethod: lora\ndata: {path: train.jsonl}\n")
    step = load_plan(path)
    assert step.model == str(tmp_path / "tiny")
    assert step.data.path == str(tmp_path / "train.jsonl")


@pytest.mark.parametrize("model", ["~no-such-user/x", "x" * 300, "a/" + "x" * 300])
def test_a_name_that_can_be_no_path_stays_a_name(tmp_path: Path, model: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(f"model: {model}\nmethod: lora\n")
    assert load_plan(path).model == model


def test_everything_wrong_is_said_at_once() -> None:
    found = problems(
        optimizer="adamw_8bits",
        seq_len=0,
        adapter={"r": 16, "droput": 0.1},
        optimiser="adamw_8bit",
        gpu="RTX 4091",
        attention="eager",
        attention_backend="flash",
        parallel={"data_parallel_size": 4},
    )
    where = [problem.split(":")[1].strip() for problem in found]
    expected = {"optimizer", "seq_len", "adapter.droput", "optimiser", "gpu", "attention_backend"}
    assert expected | {"parallel.data_parallel_size"} == set(where)
    assert len(found) == 7
    text = "\n".join(found)
    for hint in ("mean adamw_8bit", "mean dropout", "mean optimizer", "mean RTX 4090"):
        assert f"did you {hint}?" in text


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError) as caught:
        parse_plan({}, name="plan.yaml")
    assert [str(problem) for problem in caught.value.problems] == [
        "plan.yaml: model: is missing; fix: add `model:`",
        "plan.yaml: method: is missing; fix: add `method:`",
    ]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"method": "qlora", "quantization": "none"}, "contradicts method qlora"),
        ({"method": "full", "quantization": "nf4"}, "quantised weights are frozen"),
        ({"method": "full", "weights_dtype": "fp16"}, "two 16-bit formats"),
        ({"parallel": {"data_parallel_size": 2}}, "contradicts strategy none"),
        ({"parallel": {"strategy": "ddp", "offload": "cpu"}}, "contradicts strategy ddp"),
        (
            {
                "attention": "flash_attention_2",
                "weights_dtype": "fp32",
                "autocast_dtype": "none",
            },
            "take 16 bits",
        ),
        ({"attention": "eager", "attention_backend": "math"}, "contradicts attention eager"),
        ({"method": "ia3", "adapter": {"use_dora": True}}, "contradicts method ia3"),
        (
            {"method": "lora", "quantization": "int8", "adapter": {"use_dora": True}},
            "contradicts quantization int8",
        ),
        (
            {"method": "full", "adapter": {"modules_to_save": ["lm_head"]}},
            "lm_head contradicts method full",
        ),
        ({"gpu": "T4", "attention": "flash_attention_2"}, "before compute capability 8.0"),
        ({"gpu": "T4", "attention_backend": "flash"}, "before compute capability 8.0"),
        ({"padded": True, "attention_backend": "flash"}, "takes an attention mask"),
    ],
)
def test_keys_that_contradict_each_other_are_a_problem(keys: dict[str, object], says: str) -> None:
    (problem,) = problems(**keys)
    assert says in problem
    assert "fix:" in problem


@pytest.mark.parametrize(
    ("keys", "allowed"),
    [
        ({"micro_batch_size": 0}, "greater than or equal to 1"),
        ({"micro_batch_size": 1.5}, "integer"),
        ({"gradient_checkpointing": 1}, "boolean"),
        ({"adapter": {"dropout": 1.0}}, "less than 1"),
        ({"adapter": {"target_modules": []}}, "all-linear"),
        ({"adapter": {"modules_to_save": "lm_head"}}, "[embed_tokens, lm_head]"),
        ({"adapter": 16}, "Adapter"),
        ({"epochs": float("nan")}, "10000"),
        ({"method": "qlore"}, "did you mean qlora?"),
        ({"model": ""}, "at least 1 character"),
        ({"gpu": 24}, "name of a bundled GPU"),
    ],
)
def test_an_impossible_value_is_answered_with_what_is_allowed(
    keys: dict[str, object], allowed: str
) -> None:
    (problem,) = problems(**keys)
    assert allowed in problem
