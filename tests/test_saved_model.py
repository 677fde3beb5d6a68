"""What a fine-tune saved: loaded again it answers the same, quantised or merged much the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import CPU, MODEL, plan_for, questions, rows, tokenizer, train, training
from typer.testing import CliRunner

import tuneplan
from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer.generate import Answer, as_example, format_of, generate, prompt_tokens
from trainer.merge import merge
from trainer.saved import find_saved
from trainer.saved_model import load_saved

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported"),
]
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "lora on bf16": {"method": "lora", "weights_dtype": "bf16"},
    "dora": {"method": "lora", "adapter": {"use_dora": True}},
    "qlora": {"method": "qlora"},
    "int8": {"method": "lora", "quantization": "int8"},
    "ia3": {"method": "ia3", "learning_rate": 3e-2},
    "prompt_tuning": {"method": "prompt_tuning", "learning_rate": 3e-2},
    "prefix_tuning": {
        "method": "prefix_tuning",
        "gradient_checkpointing": False,
        "learning_rate": 3e-2,
    },
    "full": {"method": "full"},
}
PROMPT = prompt_tokens(tokenizer(), questions()[1])
CARD = "---\nlibrary_name: peft\n---\n\n# Questions\n"


class Saved:
    """A model that was trained a little and saved, as it was when it was saved."""

    def __init__(self, folder: Path, plan: FineTunePlan) -> None:
        made = training(plan)
        losses = train(made, rows()[1:8], 4)
        assert losses[-1] < losses[0]
        self.folder = folder / "model"
        self.answer = answer(made.model.eval())
        self.logits = logits(made.model)
        made.model.save_pretrained(self.folder)
        tokenizer().save_pretrained(self.folder)
        document = plan.to_document() | {"data": {"format": "prompt_completion"}}
        (self.folder / "plan.json").write_text(json.dumps(document))
        (self.folder / "README.md").write_text(CARD)


def answer(model: Any, num_tokens: int = 24) -> Answer:
    return generate(model, tokenizer(), PROMPT, max_new_tokens=num_tokens)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([rows()[1]["input_ids"]])).logits.float()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what a method saved, trained the first time that it is asked for."""
    made: dict[str, Saved] = {}

    def of(name: str) -> Saved:
        if name not in made:
            plan = plan_for(**{"learning_rate": 3e-3} | METHODS[name])
            made[name] = Saved(tmp_path_factory.mktemp("run"), plan)
        return made[name]

    return of


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_model_loaded_again_answers_the_same(saved: Any, name: str) -> None:
    known = saved(name)
    model, _ = load_saved(known.folder, device=CPU)
    assert answer(model) == known.answer
    assert torch.equal(logits(model), known.logits)
    assert not model.training


@pytest.mark.parametrize("name", ["lora", "dora", "ia3"])
def test_a_merged_model_gives_the_adapters_logits(saved: Any, name: str, tmp_path: Path) -> None:
    known = saved(name)
    output = tmp_path / "deep" / "merged"
    found = merge(known.folder, output)
    model, _ = load_saved(output, device=CPU)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert torch.allclose(logits(model), known.logits, atol=1e-4)
    assert answer(model) == known.answer
    assert found.dtype == "float32"
    assert found.size_bytes == pytest.approx(
        (output / "model.safetensors").stat().st_size, rel=0.01
    )
    card = (output / "README.md").read_text()
    assert "library_name: transformers" in card
    assert card.index("needs no other") < card.index("# Questions")
    assert f"This is {MODEL} with an adapter merged" in card
    assert (output / "plan.json").read_text() == (known.folder / "plan.json").read_text()
    assert [path.name for path in output.parent.iterdir()] == ["merged"]


def test_an_adapter_of_quantised_weights_is_merged_into_whole_ones(
    saved: Any, tmp_path: Path
) -> None:
    known = saved("qlora")
    output = tmp_path / "merged"
    found = merge(known.folder, output)
    assert (found.trained_on, found.dtype) == ("nf4", "float32")
    base, merged = (load_file(folder / "model.safetensors") for folder in (MODEL, output))
    norm, query = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(merged[norm], base[norm].float())
    learned = merged[query] - base[query].float()
    assert 0 < torch.linalg.matrix_rank(learned, atol=1e-5) <= 16  # the adapter's, and no rounding
    assert "trained on nf4 weights" in (output / "README.md").read_text()


@pytest.mark.parametrize("name", ["lora", "qlora", "ia3", "prompt_tuning", "full"])
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_any_saved_model_can_be_loaded_in_8_and_4_bits(
    saved: Any, name: str, quantization: Any
) -> None:
    known = saved(name)
    model, _ = load_saved(known.folder, quantization=quantization, device=CPU)
    whole, _ = load_saved(known.folder, quantization="none", device=CPU)
    assert answer(model, 4).num_tokens
    assert model.get_memory_footprint() < 0.75 * whole.get_memory_footprint()
    likely = logits(model).argmax(-1) == logits(whole).argmax(-1)
    assert likely.float().mean() > 0.6


def test_what_cannot_be_loaded_or_merged_is_refused_by_name(saved: Any, tmp_path: Path) -> None:
    def refusal(action: Any, *words: str) -> None:
        with pytest.raises(InputError) as caught:
            action()
        assert all(word in str(caught.value) for word in words), str(caught.value)

    out = tmp_path / "out"
    refusal(lambda: merge(saved("prompt_tuning").folder, out), "prompt tuning", "no weights")
    refusal(lambda: merge(saved("full").folder, out), "whole model already")
    refusal(
        lambda: load_saved(saved("dora").folder, quantization="int8", device=CPU), "DoRA", "nf4"
    )
    assert not out.exists()
    out.mkdir()
    (out / "mine").touch()
    refusal(lambda: merge(saved("lora").folder, out), "nothing is overwritten")
    assert [path.name for path in out.iterdir()] == ["mine"]
    file = tmp_path / "file"
    file.touch()
    refusal(lambda: merge(saved("lora").folder, file / "out"), "cannot be written")

    pickled = tmp_path / "pickled"
    shutil.copytree(saved("lora").folder, pickled)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    refusal(lambda: load_saved(pickled, device=CPU), "adapter_model.bin", "pickles")
    (pickled / "adapter_model.bin").unlink()
    refusal(lambda: load_saved(pickled, device=CPU), "no weights")
    refusal(lambda: find_saved(str(tmp_path)), "holds no saved model")


def test_an_adapter_finds_its_base_where_the_plan_has_another_path(
    saved: Any, tmp_path: Path
) -> None:
    known = saved("lora")
    moved = tmp_path / "moved"
    shutil.copytree(known.folder, moved)
    plan = json.loads((moved / "plan.json").read_text())
    (moved / "plan.json").write_text(json.dumps(plan | {"model": "gone/tiny-llama"}))
    model, _ = load_saved(moved, device=CPU)
    assert answer(model, 8).text == known.answer.text[: len(answer(model, 8).text)]
    (moved / "plan.json").unlink()
    model, _ = load_saved(moved, device=CPU)
    assert model.dtype == torch.bfloat16  # the base's own, where no plan says another


def test_a_prompt_is_put_as_the_training_data_was(saved: Any, tmp_path: Path) -> None:
    assert format_of(saved("lora").folder, tokenizer()) == "prompt_completion"
    assert format_of(tmp_path, tokenizer()) == "text"
    asked = {
        form: tokenizer().decode(prompt_tokens(tokenizer(), as_example("Why?", form)))
        for form in ("text", "prompt_completion", "chat")
    }
    assert asked == {
        "text": "Why?",
        "prompt_completion": "Why?\n",
        "chat": "user:\nWhy?\nassistant:\n",
    }


def test_generate_and_merge_on_the_command_line(saved: Any, tmp_path: Path) -> None:
    known = saved("lora")
    output = tmp_path / "merged"
    merged = CliRunner().invoke(
        tuneplan.app, ["merge", str(known.folder.parent), "-o", str(output), "--json"]
    )
    assert merged.exit_code == 0
    assert json.loads(merged.stdout)["folder"] == str(output)
    asked = ["--prompt", questions()[1].prompt.strip(), "--max-new-tokens", "24", "--json"]
    found = CliRunner().invoke(tuneplan.app, ["generate", str(output), *asked, "--device", "cpu"])
    assert found.exit_code == 0
    document = json.loads(found.stdout)
    assert document["output"] == known.answer.text
    assert document["num_prompt_tokens"] == len(PROMPT)
