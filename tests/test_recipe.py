"""A recipe says the plan in another trainer's words, accounts for every setting, or refuses."""

import ast
import json
import re
import runpy
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment

from estimator.gpus import bundled_gpus
from estimator.plan import FineTunePlan, load_plan
from estimator.problems import InputError
from reports.recipe import build_recipe, write_recipe
from reports.recipe_files import Recipe
from reports.recipe_mapping import TRAINERS, flat, load_target, read_recipe_file
from reports.recipe_skypilot import accelerators, build_skypilot
from trainer.chat_template import PLAIN_TEMPLATE
from trainer.examples import open_examples
from trainer.split import Split

EXAMPLES = Path(__file__).parent.parent / "examples"
QUESTIONS = str(EXAMPLES / "questions.jsonl")
CHAT = str(EXAMPLES / "chat.jsonl")

# Another value for each setting, and what must be changed with it.
OTHER_VALUES: dict[str, Any] = {
    "model": "mistralai/Mistral-7B-v0.1",
    "method": "qlora",
    "adapter.r": 8,
    "adapter.alpha": 64,
    "adapter.dropout": 0.1,
    "adapter.target_modules": ["q_proj"],
    "adapter.use_dora": True,
    "adapter.use_rslora": True,
    "adapter.dtype": "bf16",
    "adapter.modules_to_save": ["lm_head"],
    "quantization": "int8",
    "double_quant": False,
    "kbit_preparation": False,
    "weights_dtype": "fp32",
    "autocast_dtype": "none",
    "optimizer": "lion_8bit",
    "max_grad_norm": None,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "seq_len": 1024,
    "padded": True,
    "gradient_checkpointing": False,
    "checkpointing_reentrant": True,
    "attention": "eager",
    "attention_backend": "math",
    "loss": "chunked",
    "keep_outputs": True,
    "device_map_load": False,
    "epochs": 2,
    "schedule.learning_rate": 1e-4,
    "schedule.lr_scheduler": "constant",
    "schedule.warmup_ratio": 0.1,
    "schedule.weight_decay": 0.1,
    "schedule.seed": 7,
    "schedule.validation_fraction": 0,
    "schedule.evaluations_per_epoch": 5,
    "schedule.early_stopping_patience": None,
}
# What these change is not in the settings: the machine, the command, the data, other files.
ELSEWHERE = (
    "expandable_segments",
    "gpu",
    "parallel.",
    "data.",
    "num_trained_layers",
    "adapter.num_virtual_tokens",
)


def plan_of(**changes: Any) -> FineTunePlan:
    document: dict[str, Any] = {"model": "meta-llama/Llama-2-7b-hf", "method": "lora"}
    for key, value in changes.items():
        part, _, name = key.replace("__", ".").rpartition(".")
        (document.setdefault(part, {}) if part else document)[name] = value
    return FineTunePlan.model_validate(document)


def changed(plan: FineTunePlan, key: str, value: Any) -> FineTunePlan:
    part, _, name = key.rpartition(".")
    if not part:
        return plan.changed(**{name: value})
    return plan.changed(**{part: plan.to_document()[part] | {name: value}})


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_setting_of_a_plan_is_in_every_mapping(trainer: str) -> None:
    assert set(load_target(trainer).settings) == set(flat(plan_of()))


def test_every_setting_has_another_value_to_try() -> None:
    rest = {key for key in flat(plan_of()) if not key.startswith(ELSEWHERE)}
    assert rest == set(OTHER_VALUES)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_setting_is_lost_in_silence(trainer: str) -> None:
    plans = {
        False: plan_of(weights_dtype="bf16"),
        True: plan_of(method="qlora", weights_dtype="bf16"),
    }
    before = {key: build_recipe(plan, trainer) for key, plan in plans.items()}
    for key, value in OTHER_VALUES.items():
        of_quantised = key in ("double_quant", "kbit_preparation")
        after = build_recipe(changed(plans[of_quantised], key, value), trainer)
        recipes = (before[of_quantised], after)
        told = [one.files.get("train.py") or one.files["config.yaml"] for one in recipes]
        differs = [row.key for one in recipes for row in one.mapped.differing]
        assert told[0] != told[1] or key in differs, key


def script_calls(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The literal keywords of every call in train.py, by the called name."""
    found = {}
    for call in ast.walk(ast.parse(recipe.files["train.py"])):
        if isinstance(call, ast.Call):
            name = getattr(call.func, "attr", None) or getattr(call.func, "id", "")
            keywords = {one.arg: one.value for one in call.keywords if one.arg}
            found.setdefault(name, {}).update(
                {
                    arg: node.value
                    for arg, node in keywords.items()
                    if isinstance(node, ast.Constant)
                }
            )
    return found


def test_trl_is_told_qlora_exactly() -> None:
    plan = plan_of(method="qlora", adapter__r=8, adapter__dropout=0.05, max_grad_norm=None)
    calls = script_calls(build_recipe(plan, "trl"))
    assert calls["LoraConfig"] == {
        "task_type": "CAUSAL_LM",
        "r": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": "all-linear",
        "use_dora": False,
        "use_rslora": False,
    }
    assert calls["BitsAndBytesConfig"] == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    }
    assert calls["prepare_model_for_kbit_training"] == {"use_gradient_checkpointing": False}
    config = calls["SFTConfig"]
    assert config["learning_rate"] == 2e-4  # the method's own
    assert config["max_grad_norm"] == 0.0
    assert (config["bf16"], config["fp16"]) == (True, False)
    assert config["optim"] == "adamw_torch_fused"
    assert (config["packing"], config["packing_strategy"]) == (True, "wrapped")
    assert config["max_length"] == 2048
    assert (config["warmup_steps"], config["lr_scheduler_type"]) == (0.03, "cosine")
    assert config["eval_steps"] == config["save_steps"] == pytest.approx(1 / 6, abs=1e-6)
    assert "torch.float32" in build_recipe(plan, "trl").files["train.py"]  # the adapter's type


def test_a_full_fine_tune_of_last_layers_in_the_words_of_two() -> None:
    plan = plan_of(method="last_layers", num_trained_layers=2, padded=True, optimizer="lion_8bit")
    axolotl = yaml.safe_load(build_recipe(plan, "axolotl").files["config.yaml"])
    assert axolotl["unfrozen_parameters"] == ["^[a-z_.]+.30.", "^[a-z_.]+.31."]  # of 32
    assert "adapter" not in axolotl
    assert (axolotl["optimizer"], axolotl["adam_beta2"]) == ("lion_8bit", 0.99)
    assert axolotl["sample_packing"] is False
    factory = yaml.safe_load(build_recipe(plan, "llama-factory").files["config.yaml"])
    assert (factory["finetuning_type"], factory["freeze_trainable_layers"]) == ("freeze", 2)
    assert factory["pure_bf16"] is True
    assert factory["learning_rate"] == 2e-5
    assert isinstance(factory["learning_rate"], float)  # 2e-05 is text to PyYAML


@pytest.mark.parametrize("trainer", ["axolotl", "llama-factory"])
def test_configurations_read_back_as_they_were_meant(trainer: str) -> None:
    plan = plan_of(method="qlora", quantization="fp4", schedule__validation_fraction=0)
    recipe = build_recipe(plan, trainer)
    written = yaml.safe_load(recipe.files["config.yaml"])
    for key, value in recipe.mapped.nested().items():
        assert written[key] == value or key == "stage"
    assert written.get("eval_strategy", "no") == "no"  # a word, not false


def test_methods_that_a_target_lacks_name_those_that_have_them() -> None:
    for method, able in (("ia3", "--for trl"), ("last_layers", "--for llama-factory")):
        with pytest.raises(InputError) as caught:
            build_recipe(plan_of(method=method), "unsloth")
        (problem,) = caught.value.problems
        assert problem.where == f"method: {method}"
        assert able in problem.fix
    with pytest.raises(InputError, match=r"parallel\.strategy: fsdp"):
        build_recipe(plan_of(parallel__strategy="fsdp"), "trl")


def test_packages_are_pinned_to_what_was_checked() -> None:
    for trainer in (*TRAINERS, "skypilot"):
        for requirement in load_target(trainer).requirements:
            assert re.fullmatch(r"[\w.-]+==[\w.]+", requirement)
    pinned = dict(one.split("==") for one in load_target("trl").requirements)
    for package in ("torch", "transformers", "peft", "bitsandbytes", "accelerate"):
        assert version(package).partition("+")[0] == pinned[package]


@pytest.mark.parametrize("method", ["full", "last_layers", "bitfit", "ia3", "prefix_tuning"])
def test_trl_scripts_of_every_method_are_python(method: str) -> None:
    plan = plan_of(method=method, attention_backend="math", expandable_segments=True)
    compile(build_recipe(plan, "trl", CHAT).files["train.py"], "train.py", "exec")


def test_a_hostile_name_stays_a_name() -> None:
    name = 'a/b"""\nimport os\n{{ plan }}: |x'
    for trainer in TRAINERS:
        recipe = build_recipe(plan_of(model=name), trainer)
        if "train.py" in recipe.files:
            tree = ast.parse(recipe.files["train.py"])
            (model,) = (one for one in tree.body if isinstance(one, ast.Assign))
            assert ast.literal_eval(model.value) == name
        else:
            written = yaml.safe_load(recipe.files["config.yaml"])
            assert name in (written.get("base_model"), written.get("model_name_or_path"))
        assert len(recipe.files["README.md"].splitlines()[0]) > len(name)


def test_data_is_split_as_tuneplan_splits_it(tmp_path: Path) -> None:
    plan = plan_of()
    write_recipe(build_recipe(plan, "trl", QUESTIONS), tmp_path / "trl")
    source = open_examples(QUESTIONS)
    split = Split.of(plan.schedule)
    held_out = [one.completion for one in source if split.side(one) == "validation"]
    rows = (tmp_path / "trl/data/validation.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["completion"] for row in rows] == held_out
    assert held_out


def test_conversations_are_written_in_each_target_s_words(tmp_path: Path) -> None:
    for trainer in TRAINERS:
        write_recipe(build_recipe(plan_of(), trainer, CHAT), tmp_path / trainer)
    row = json.loads((tmp_path / "axolotl/data/train.jsonl").read_text().splitlines()[0])
    assert {one["train"] for one in row["messages"] if one["role"] == "assistant"} == {True}
    row = json.loads((tmp_path / "trl/data/train.jsonl").read_text().splitlines()[0])
    assert set(row) == {"messages"}  # several answers
    assert "assistant_only_loss=True" in (tmp_path / "trl/train.py").read_text()
    info = json.loads((tmp_path / "llama-factory/data/dataset_info.json").read_text())
    assert info["train"]["formatting"] == "sharegpt"
    one = tmp_path / "one.jsonl"
    one.write_text('{"instruction": "Add.", "output": "2"}\n{"instruction": "Go.", "output": "3"}')
    write_recipe(build_recipe(plan_of(), "trl", str(one)), tmp_path / "one")
    row = json.loads((tmp_path / "one/data/train.jsonl").read_text().splitlines()[0])
    assert [turn["role"] for turn in row["prompt"] + row["completion"]] == ["user", "assistant"]
    assert "assistant_only_loss" not in (tmp_path / "one/train.py").read_text()


def test_the_plain_template_is_tuneplan_s_own() -> None:
    marked = read_recipe_file("plain_chat_template.jinja")
    unmarked = re.sub(r"\{% (end)?generation %\}", "", marked)
    messages = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Oh."},
    ]
    told = {"messages": messages, "eos_token": "</s>", "add_generation_prompt": True}
    texts = [Environment().from_string(one).render(told) for one in (unmarked, PLAIN_TEMPLATE)]
    assert texts[0] == texts[1]


def test_without_data_or_with_the_hub_s_a_recipe_says_so() -> None:
    assert "no data yet" in build_recipe(plan_of(), "trl").notes[0]
    recipe = build_recipe(plan_of(), "axolotl", "owner/name:config/split")
    written = yaml.safe_load(recipe.files["config.yaml"])
    (dataset,) = written["datasets"]
    assert (dataset["path"], dataset["name"], dataset["split"]) == ("owner/name", "config", "split")
    assert written["val_set_size"] == 0.1
    assert "read from the Hub" in recipe.notes[0]


def test_a_trainer_that_expands_segments_is_told_whether_to() -> None:
    for trainer in ("axolotl", "unsloth"):
        command = build_recipe(plan_of(), trainer).commands[1]
        assert command.startswith("PYTORCH_ALLOC_CONF=expandable_segments:False ")
    plan = plan_of(expandable_segments=True)
    assert build_recipe(plan_of(), "llama-factory").commands[1].startswith("llamafactory-cli")
    assert "segments:True" in build_recipe(plan, "llama-factory").commands[1]
    assert 'os.environ["PYTORCH_ALLOC_CONF"]' in build_recipe(plan, "trl").files["train.py"]


def test_several_gpus_take_a_launcher_and_zero_its_file() -> None:
    plan = plan_of(parallel__strategy="zero3", parallel__data_parallel_size=4)
    plan = changed(plan, "parallel.offload", "cpu")
    recipe = build_recipe(plan, "trl")
    assert recipe.commands[1] == "torchrun --nproc-per-node 4 train.py"
    sharding = json.loads(recipe.files["ds_config.json"])["zero_optimization"]
    assert sharding["stage"] == 3
    assert sharding["offload_param"]["device"] == "cpu"


def test_skypilot_rents_the_plan_s_gpu() -> None:
    plan = plan_of(gpu="H200 SXM 141GB")
    recipe = build_skypilot(plan, "axolotl")
    task = yaml.safe_load(recipe.files["task.yaml"])
    assert task["resources"] == {"accelerators": "H200:1", "disk_size": 90}
    assert "--python 3.12" in task["setup"]
    assert "axolotl train config.yaml" in task["run"]
    assert "project/config.yaml" in recipe.files
    rows = {row.key: row.told for row in recipe.mapped.rows}
    assert rows["gpu"] == "resources.accelerators: H200:1"
    assert rows["seq_len"] == "sequence_len: 2048"
    own = yaml.safe_load(build_skypilot(plan, "tuneplan", QUESTIONS).files["task.yaml"])
    assert "tuneplan finetune plan.yaml --data data/train.jsonl" in own["run"]


def test_skypilot_takes_a_local_model_along() -> None:
    recipe = build_skypilot(load_plan(EXAMPLES / "tiny.yaml"), "trl")
    task = yaml.safe_load(recipe.files["task.yaml"])
    assert task["file_mounts"] == {"~/model": str(EXAMPLES / "tiny-llama")}
    assert 'MODEL = "../model"' in recipe.files["project/train.py"]


def test_skypilot_s_gpus_are_in_the_catalogue_and_others_are_refused() -> None:
    names = {gpu.name for gpu in bundled_gpus()}
    assert set(accelerators()) <= names
    unknown = sorted(names - set(accelerators()))[0]
    with pytest.raises(InputError, match=f"no name for {unknown}"):
        build_skypilot(plan_of(gpu=unknown), "trl")


def run_cli(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["tuneplan", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("tuneplan", run_name="__main__")
    return int(ended.value.code or 0)


def test_the_command_writes_once_and_never_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "recipe"
    command = ["recipe", str(EXAMPLES / "tiny.yaml"), "--for", "trl", "-o", str(out)]
    assert run_cli(*command, "--json", monkeypatch=monkeypatch) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["commands"][1] == "python train.py"
    assert [one["key"] for one in said["differs"]] == ["loss", "schedule.warmup_ratio"]
    assert {"train.py", "README.md", "MAPPING.md", "requirements.txt"} <= set(said["files"])
    table = (out / "MAPPING.md").read_text(encoding="utf-8")
    assert all(f"| `{key}` |" in table for key in flat(plan_of()))
    assert run_cli(*command, monkeypatch=monkeypatch) == 2
    assert "is not empty" in capsys.readouterr().err


def test_what_is_refused_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 1, "completion": "b"}\n')
    out = tmp_path / "recipe"
    command = ["recipe", str(EXAMPLES / "tiny.yaml"), "-o", str(out)]
    alone = tmp_path / "alone.jsonl"
    alone.write_text('{"prompt": "a", "completion": "b"}\n')
    for more in (
        ["--for", "trl", "--data", str(alone)],
        ["--for", "unsloth", "--set", "method=ia3"],
        ["--for", "trl", "--data", str(broken)],
    ):
        assert run_cli(*command, *more, monkeypatch=monkeypatch) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert run_cli(*command, "--for", "trl", "--trainer", "axolotl", monkeypatch=monkeypatch) == 2
    assert [one.name for one in tmp_path.iterdir() if "recipe" in one.name] == []
