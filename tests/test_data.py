"""Examples in a file become batches of the plan's shape; broken lines are named."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer.data import IGNORED, example_batches, random_batches
from trainer.examples import Example, read_examples

CPU = torch.device("cpu")
TINY = Path(__file__).parents[1] / "examples" / "tiny-llama"


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return AutoTokenizer.from_pretrained(TINY)


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_three_shapes_of_an_example_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '{"text": "all of it"}',
        "",
        '{"prompt": "why?", "completion": "because"}',
        '{"messages": [{"role": "user", "content": "hi"},'
        ' {"role": "assistant", "content": "hello"}]}',
    )
    assert read_examples(path) == [
        Example("", "all of it"),
        Example("why?\n", "because"),
        Example("user: hi\nassistant: ", "hello"),
    ]


def test_a_line_ends_at_a_newline_alone_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    text = '{"text": "one\u2028line"}\r\n{"text": "another\x85"}\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_examples(path) == [Example("", "one\u2028line"), Example("", "another\x85")]


def test_every_broken_line_is_named(tmp_path: Path) -> None:
    lines = ['{"text": "good"}'] * 20
    lines[16] = '{"text": "no end'
    lines[18] = '{"question": "which key?"}'
    with pytest.raises(InputError) as caught:
        read_examples(written(tmp_path, *lines))
    first, second = caught.value.problems
    assert first.where.endswith("data.jsonl: line 17")
    assert "not JSON" in first.what
    assert second.where.endswith("line 19")
    assert "prompt" in second.allowed


@pytest.mark.parametrize(
    "line", ["[1]", '"text"', "7", '{"text": ""}', '{"messages": []}', '{"text": 3}']
)
def test_what_is_json_and_no_example_is_named_too(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match="line 1: does not have the shape"):
        read_examples(written(tmp_path, line))


def test_a_missing_and_an_empty_file_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_examples(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="holds no examples"):
        read_examples(written(tmp_path, ""))


def plan(**changes: object) -> FineTunePlan:
    values = {"micro_batch_size": 2, "seq_len": 16} | changes
    return FineTunePlan.model_validate({"model": "tiny", "method": "lora"} | values)


def test_packed_rows_are_full_and_learn_only_completions(tokenizer: object) -> None:
    examples = [Example("Why?\n", "Because it is so."), Example("And?\n", "No more.")]
    batch = next(example_batches(examples, tokenizer, plan(), CPU))
    assert set(batch) == {"input_ids", "labels"}
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 16)
    learned = batch["labels"] != IGNORED
    assert learned.any()
    assert not learned.all()
    assert torch.equal(batch["labels"][learned], batch["input_ids"][learned])


def test_packed_rows_go_on_where_the_last_one_ended(tokenizer: object) -> None:
    examples = [Example("", "one two three four five six seven eight nine ten")]
    rows = example_batches(examples, tokenizer, plan(micro_batch_size=1, seq_len=8), CPU)
    joined = torch.cat([next(rows)["input_ids"][0] for _ in range(6)]).tolist()
    once = [*tokenizer(examples[0].completion)["input_ids"], tokenizer.eos_token_id]  # type: ignore[operator]  an AutoTokenizer
    assert joined == (once * 9)[: len(joined)]


def test_padded_rows_hold_one_example_and_a_mask(tokenizer: object) -> None:
    batch = next(example_batches([Example("", "short")], tokenizer, plan(padded=True), CPU))
    mask = batch["attention_mask"]
    assert mask.shape == (2, 16)
    assert (batch["labels"][mask == 0] == IGNORED).all()
    assert mask.sum() == (batch["labels"] != IGNORED).sum()


def test_random_batches_are_the_same_each_time() -> None:
    first = next(random_batches(plan(), 100, CPU))["input_ids"]
    again = next(random_batches(plan(), 100, CPU))["input_ids"]
    assert first.shape == (2, 16)
    assert torch.equal(first, again)


def test_a_prompt_that_fills_the_whole_row_is_not_trained_on(tokenizer: object) -> None:
    long = Example("why " * 100, "because")
    with pytest.raises(InputError, match="longer than 16 tokens"):
        next(example_batches([long], tokenizer, plan(padded=True), CPU))
    for _, batch in zip(range(4), example_batches([long], tokenizer, plan(), CPU), strict=False):
        assert (batch["labels"] != IGNORED).any()
