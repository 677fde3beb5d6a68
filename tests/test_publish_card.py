"""The card of a saved fine-tune: true, readable by the Hub, and not to be broken by its data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from estimator.documents import parse_document
from estimator.plan import FineTunePlan, parse_plan
from trainer.evaluation_results import Comparison, Evaluation, HistoryPoint
from trainer.model_card import CardFacts, DataFacts, escape_markdown, model_card

LLAMA = parse_plan({"model": "meta-llama/Llama-3.1-8B", "method": "qlora"})
EXAMPLES = Path(__file__).parents[1] / "examples"


def parts(card: str) -> tuple[dict[str, object], str]:
    """The metadata and the text, taken apart as the Hub does."""
    start, metadata, text = card.split("---\n", 2)
    assert start == ""
    return parse_document(metadata, "card"), text


def code_blocks(text: str, language: str) -> list[str]:
    blocks = text.split(f"\n```{language}\n")[1:]
    return [block.split("\n```\n")[0] for block in blocks]


def evaluation(loss: float, perplexity: float) -> Evaluation:
    return Evaluation(validation_loss=loss, perplexity=perplexity, seconds=1, seed=1)


def test_a_card_tells_the_hub_and_people_what_was_measured() -> None:
    comparison = Comparison(
        before=evaluation(2.5, 12.18),
        after=evaluation(1.25, 3.49),
        verdict="learned",
        sentence="It learned.",
        validation_change=None,
        general_change=None,
        warnings=("3 references are few.",),
    )
    facts = CardFacts(
        plan=LLAMA,
        saved="adapter",
        data=DataFacts(name="/home/ann/faq.jsonl", num_examples=1234, fingerprint="0f" * 32),
        device_name="RTX 4090",
        step_seconds_median=1.5,
        tokens_per_second=5461.3,
        seconds=5400,
        num_steps=3600,
        history=(
            HistoryPoint(step=1, training_loss=2.4),
            HistoryPoint(step=2, training_loss=1.2, validation_loss=1.3),
        ),
        comparison=comparison,
        software={"torch": "2.9.0"},
        limits=("Answers are short.",),
    )
    metadata, text = parts(model_card(facts))
    assert metadata == {
        "license": "llama3.1",
        "base_model": "meta-llama/Llama-3.1-8B",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["tuneplan", "fine-tuned", "qlora"],
    }
    for told in (
        "| file | faq.jsonl |",
        "| examples | 1,234 |",
        "| of these held out | not known |",
        "0f0f0f0f",
        "| validation loss | 2.500 | 1.250 |",
        "| ROUGE-L | not known | not known |",
        "It learned.",
        "- 3 references are few.",
        "- Answers are short.",
        "| device | RTX 4090 |",
        "| peak memory allocated | not known |",
        "| time of a step (median) | 1.500 s |",
        "| tokens per second | 5,461 |",
        "| time of the whole run | 1.500 h |",
        "| steps | 3,600 |",
        "| training loss, first | 2.400 |",
        "| validation loss, last | 1.300 |",
        "torch 2.9.0",
    ):
        assert told in text, told
    (plan,) = code_blocks(text, "yaml")
    assert parse_plan(parse_document(plan, "plan")) == LLAMA
    _, small = code_blocks(text, "python")
    assert 'bnb_4bit_quant_type="nf4"' in small


def test_what_nobody_told_is_not_known() -> None:
    plan = parse_plan({"model": "somebody/model", "method": "full"})
    metadata, text = parts(
        model_card(CardFacts(plan=plan, saved="model", data=DataFacts(name="faq.jsonl")))
    )
    assert metadata["license"] == "unknown"
    assert metadata["library_name"] == "transformers"
    assert "not evaluated" in text
    assert "PeftModel" not in text
    assert "None" not in text
    assert "trust_remote_code" not in text


def test_hostile_names_stay_text() -> None:
    name = "x\n---\nlicense: mit\n```\n# Title | <script>alert(1)</script> [a](http://evil) `y`"
    facts = CardFacts(
        plan=LLAMA.changed(model=name, data={"path": name}),
        saved="adapter",
        data=DataFacts(name=name),
        device_name=name,
        software={name: name},
        limits=(name,),
    )
    metadata, text = parts(model_card(facts))
    assert metadata["license"] == "unknown"
    assert "base_model" not in metadata
    outside = re.sub(r"(`{3,})\w+\n.*?\n\1\n", "", text, flags=re.DOTALL)
    assert "PeftModel" in text
    assert "PeftModel" not in outside  # the fences hold
    assert len([line for line in outside.splitlines() if line.startswith("# ")]) == 1
    assert "\n---" not in outside
    assert "\nlicense" not in outside
    assert not re.search(r"[^\\][<>`\[|]\w", outside)
    assert "://" not in outside
    rows = [line for line in text.splitlines() if line.startswith("| device |")]
    assert rows == [f"| device | {escape_markdown(name)} |"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks it
def test_the_code_on_a_card_loads_the_saved_adapter(
    tiny_plan: FineTunePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(EXAMPLES / "tiny-llama", dtype="float32")
    lora = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    trained = get_peft_model(base, lora).eval()
    folder = tmp_path / "adapter"
    trained.save_pretrained(folder)
    AutoTokenizer.from_pretrained(EXAMPLES / "tiny-llama").save_pretrained(folder)
    card = model_card(CardFacts(plan=tiny_plan, saved="adapter", data=DataFacts(name="q.jsonl")))
    code = code_blocks(parts(card)[1], "python")[0]
    (tmp_path / "tiny-llama").symlink_to(EXAMPLES / "tiny-llama")
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(code.replace('folder = "."', 'folder = "adapter"'), found)
    ids = torch.arange(4, 20).reshape(1, -1)
    with torch.no_grad():
        theirs = found["model"](ids).logits  # pyright: ignore[reportCallIssue]
        assert torch.equal(theirs, trained(ids).logits)
    assert found["tokenizer"]
