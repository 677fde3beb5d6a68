"""Examples become rows of tokens: which are learned, what is cut, and what is kept on disk."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer.chat_template import TemplateProblem, render
from trainer.data import collate, endless_batches, random_batches
from trainer.examples import Example, Turn, content_digest, open_examples
from trainer.split import split_of
from trainer.tokenized import CUT_TO_NOTHING, tokenize_data
from trainer.tokens import IGNORED, encode, encode_all, encoder_of, prompt_text, read_encoder

CPU = torch.device("cpu")
TINY = Path(__file__).parents[1] / "examples" / "tiny-llama"
CHAT = (
    Turn("system", "Be brief ."),
    Turn("user", "hi"),
    Turn("assistant", "hello you"),
    Turn("user", "bye"),
    Turn("assistant", "so long"),
)
CHATML = (
    "{% for m in messages %}<|im_start|> {{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant\n{% endif %}"
)
WITH_MARKS = (
    "{% for m in messages %}<|im_start|> {{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}"
    "{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant\n{% endif %}"
)
# As Qwen3's: the last answer gets an empty thought, the earlier ones none.
THINKING = (
    "{% for m in messages %}<|im_start|> {{ m.role }}\n"
    "{% if loop.last and m.role == 'assistant' %}{{ '<think> </think> ' }}{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant\n{% endif %}"
)
# As DeepSeek-R1's: the model is asked with an opened thought that its answers do not keep.
OPENED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|> "
    "{{ m.content }}{{ eos_token }}{% else %}{{ m.content + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> <think> {% endif %}"
)
COUNTING = "{{ messages | length }} {% for m in messages %}{{ m.content + ' ' }}{% endfor %}"
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    + CHATML
)
WORDS = "user system assistant : . ? hi hello you bye so long Be brief why because a b c d e f g"


def tokenizer_of(template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, so that masks can be written out."""
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    words = {word: index for index, word in enumerate([*special, "\n", *WORDS.split(), "5"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(":", "isolated"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=template
    )


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    return tokenizer_of()


def shown(example: Example, tokenizer: PreTrainedTokenizerFast) -> str:
    """The tokens of an example, in brackets where they are learned."""
    ids, labels = encode(example, encoder_of(tokenizer))
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    names = [name.replace("\n", "⏎") for name in tokenizer.convert_ids_to_tokens(ids)]
    pairs = zip(names, labels, strict=True)
    return " ".join(name if label == IGNORED else f"[{name}]" for name, label in pairs)


def test_prompt_and_completion_learn_the_completion_and_its_end(words) -> None:
    assert shown(Example("why ?\n", "because a b"), words) == "why ? ⏎ [because] [a] [b] [</s>]"


def test_plain_text_is_learned_from_its_first_word(words) -> None:
    assert shown(Example("", "a b c"), words) == "[a] [b] [c] [</s>]"


def test_without_a_template_of_its_own_a_plain_one_is_used_and_named(words) -> None:
    assert shown(Example(turns=CHAT[1:]), words) == (
        "user : ⏎ hi ⏎ assistant : ⏎ [hello] [you] [</s>] ⏎ "
        "user : ⏎ bye ⏎ assistant : ⏎ [so] [long] [</s>] ⏎"
    )
    assert "plain template" in encoder_of(words).template_name


CHATML_MASK = (
    "<|im_start|> system ⏎ Be brief . <|im_end|> ⏎ <|im_start|> user ⏎ hi <|im_end|> ⏎ "
    "<|im_start|> assistant ⏎ [hello] [you] [<|im_end|>] ⏎ <|im_start|> user ⏎ bye <|im_end|> ⏎ "
    "<|im_start|> assistant ⏎ [so] [long] [<|im_end|>] ⏎ [</s>]"
)


@pytest.mark.parametrize(
    ("template", "mask"),
    [
        (CHATML, CHATML_MASK),
        (WITH_MARKS, CHATML_MASK),
        (THINKING, CHATML_MASK.replace("[so]", "[<think>] [</think>] [so]")),
        (
            OPENED,
            "<s> Be brief . hi <|im_start|> [hello] [you] [</s>] bye "
            "<|im_start|> [so] [long] [</s>]",
        ),
    ],
)
def test_in_a_conversation_every_answer_and_its_end_are_learned(template: str, mask: str) -> None:
    tokenizer = tokenizer_of(template)
    assert shown(Example(turns=CHAT), tokenizer) == mask
    messages = [{"role": turn.role, "content": turn.content} for turn in CHAT]
    theirs = tokenizer.apply_chat_template(messages, tokenize=False)
    encoder = encoder_of(tokenizer)
    assert render(CHAT, encoder.template, encoder.special_tokens).text == theirs
    asked = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    assert prompt_text(Example(turns=CHAT), encoder) == asked
    assert encoder.count([theirs], is_chat=True) == [len(mask.split())]


def test_an_answer_that_is_part_of_its_end_mark_is_still_found() -> None:
    turns = (Turn("user", "a"), Turn("assistant", "d"), Turn("user", "b"), Turn("assistant", "e"))
    assert shown(Example(turns=turns), tokenizer_of(THINKING)).count("] [<|im_end|>]") == 2


def test_an_answer_of_weight_0_is_not_learned() -> None:
    turns = (CHAT[1], Turn("assistant", "hello you", is_learned=False), *CHAT[3:])
    assert shown(Example(turns=turns), tokenizer_of(CHATML)).endswith(
        "[so] [long] [<|im_end|>] ⏎ [</s>]"
    )
    assert "[hello]" not in shown(Example(turns=turns), tokenizer_of(CHATML))


def test_a_template_that_cannot_be_split_or_refuses_says_so() -> None:
    with pytest.raises(TemplateProblem, match="cannot be split into turns"):
        encode(Example(turns=CHAT), encoder_of(tokenizer_of(COUNTING)))
    with pytest.raises(TemplateProblem, match=r"refuses it \(no system message\)"):
        encode(Example(turns=CHAT), encoder_of(tokenizer_of(STRICT)))


def test_the_beginning_of_a_sequence_is_given_where_the_tokenizer_writes_one() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tokenizer_of()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    assert shown(Example("", "a b"), tokenizer) == "<s> [a] [b] [</s>]"


def test_byte_level_tokens_are_learned_where_the_answer_lies() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    turns = (Turn("user", "naïve 🙂?"), Turn("assistant", "Oui 🙂, ça va."))
    ids, labels = encode(Example(turns=turns), encoder_of(tokenizer))
    assert tokenizer.decode([label for label in labels if label != IGNORED]) == "Oui 🙂, ça va.</s>"
    both = encode_all([Example("", "short"), Example("a\n", "b")], encoder_of(tokenizer))
    assert both[0] == encode(Example("", "short"), encoder_of(tokenizer))
    folder = read_encoder(TINY)
    assert folder is not None
    assert folder.count(["short", "a\nb"], is_chat=False) == [len(one.input_ids) for one in both]
    assert len(ids) == len(labels)


def plan(**changes: object) -> FineTunePlan:
    values = {"micro_batch_size": 2, "seq_len": 4, "schedule": {"validation_fraction": 0}}
    return FineTunePlan.model_validate({"model": "tiny", "method": "lora"} | values | changes)


def data_file(tmp_path: Path, *rows: dict[str, object], name: str = "data.jsonl") -> str:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROWS = ({"prompt": "why", "completion": "a b"}, {"prompt": "hi", "completion": "c"})


def test_packed_rows_are_full_follow_each_other_and_drop_nothing(words, tmp_path: Path) -> None:
    source = open_examples(data_file(tmp_path, *ROWS))
    data = tokenize_data(source, words, plan(), tmp_path / "tokens")
    names = [" ".join(words.convert_ids_to_tokens(row["input_ids"])) for row in data.train]
    assert names == ["why \n a b", "</s> hi \n c"]
    assert data.summary.num_tokens == 9
    assert data.summary.num_tokens_cut == 1  # the last end of sequence, first in a row of its own
    assert data.summary.num_learned_tokens == 3
    assert (data.summary.num_truncated, data.summary.left_out) == (0, {})
    assert data.validation is None
    longer = tokenize_data(source, words, plan(seq_len=7), tmp_path / "tokens")
    last = longer.train[1]
    assert words.convert_ids_to_tokens(last["input_ids"]) == ["c", *["</s>"] * 6]
    assert last["labels"] == [words.convert_tokens_to_ids("c"), 2, *[IGNORED] * 5]


def test_padded_rows_are_cut_at_seq_len_and_what_is_cut_is_counted(words, tmp_path: Path) -> None:
    long = {"prompt": "a b c d e", "completion": "f"}
    source = open_examples(data_file(tmp_path, *ROWS, long))
    data = tokenize_data(source, words, plan(padded=True), tmp_path / "tokens")
    assert [len(row["input_ids"]) for row in data.train] == [4, 4]
    summary = data.summary
    assert (summary.num_truncated, summary.num_tokens_cut) == (2, 1 + 8)
    assert summary.left_out == {CUT_TO_NOTHING: 1}
    assert (summary.num_left_out, summary.num_examples) == (1, 3)
    assert summary.longest_example_tokens == 8
    assert summary.longest_example.endswith("data.jsonl: line 3")


def test_where_nothing_is_left_to_learn_it_says_so(words, tmp_path: Path) -> None:
    source = open_examples(data_file(tmp_path, {"prompt": "a b c d e", "completion": "f"}))
    with pytest.raises(InputError, match="longer than 4 tokens"):
        tokenize_data(source, words, plan(padded=True), tmp_path / "tokens")


def test_a_refused_conversation_is_named_by_its_line(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": turn.role, "content": turn.content} for turn in CHAT]}] * 2
    source = open_examples(data_file(tmp_path, *rows))
    with pytest.raises(InputError) as caught:
        tokenize_data(source, tokenizer_of(STRICT), plan(), tmp_path / "tokens")
    assert [problem.where[-6:] for problem in caught.value.problems] == ["line 1", "line 2"]


def test_rows_that_are_there_are_used_again_and_others_made_anew(
    words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data_file(tmp_path, *ROWS)
    first = tokenize_data(open_examples(path), words, plan(), tmp_path / "tokens")
    written = (tmp_path / "tokens" / "train.arrow").stat().st_mtime_ns
    again = tokenize_data(open_examples(path), words, plan(), tmp_path / "tokens")
    assert again.summary == first.summary
    assert again.train[0] == first.train[0]
    assert (tmp_path / "tokens" / "train.arrow").stat().st_mtime_ns == written
    for changed in (
        lambda: tokenize_data(open_examples(path), words, plan(seq_len=5), tmp_path / "tokens"),
        lambda: tokenize_data(
            open_examples(data_file(tmp_path, ROWS[0])), words, plan(), tmp_path / "tokens"
        ),
    ):
        assert len(changed().train[0]["input_ids"]) in (4, 5)
        assert (tmp_path / "tokens" / "train.arrow").stat().st_mtime_ns != written
        written = (tmp_path / "tokens" / "train.arrow").stat().st_mtime_ns
    # Killed while writing: the summary is missing, or the rows are torn.
    (tmp_path / "tokens" / "train.arrow").write_bytes(b"ARROW1 torn")
    healed = tokenize_data(open_examples(path), words, plan(), tmp_path / "tokens")
    assert len(healed.train) == 1


def test_equal_examples_stay_on_one_side_and_small_sets_get_both(words, tmp_path: Path) -> None:
    schedule = plan(schedule={"validation_fraction": 0.3}).schedule
    examples = [Example("", f"text {index}") for index in range(2000)]
    held_out = [split_of(example, schedule) == "validation" for example in examples]
    assert 0.27 < sum(held_out) / 2000 < 0.33
    assert split_of(Example("", "text 7"), schedule) == split_of(examples[7], schedule)
    assert content_digest(Example("a", "b")) != content_digest(Example("", "ab"))
    other = plan(schedule={"validation_fraction": 0.3, "seed": 1}).schedule
    assert held_out != [split_of(example, other) == "validation" for example in examples]
    alone = [{"text": "a b"}] * 3
    for fraction in (0.001, 0.9):
        source = open_examples(data_file(tmp_path, *alone))
        some = plan(schedule={"validation_fraction": fraction})
        assert tokenize_data(source, words, some, tmp_path / "tokens").validation is None
        rows = [{"text": "a b"}, {"text": "c d"}, {"text": "c d"}]
        data = tokenize_data(
            open_examples(data_file(tmp_path, *rows)),
            words,
            plan(schedule={"validation_fraction": fraction}),
            tmp_path / "tokens",
        )
        assert min(data.summary.num_train, data.summary.num_validation) >= 1
        assert data.summary.num_train + data.summary.num_validation == 3
        assert data.validation is not None


def test_a_validation_file_is_held_out_and_all_of_the_other_trained_on(
    words, tmp_path: Path
) -> None:
    held_out = open_examples(data_file(tmp_path, {"text": "e f g"}, name="held-out.jsonl"))
    source = open_examples(data_file(tmp_path, *ROWS))
    some = plan(schedule={"validation_fraction": 0.5})
    data = tokenize_data(source, words, some, tmp_path / "tokens", validation=held_out)
    assert (data.summary.num_train, data.summary.num_validation) == (2, 1)
    assert data.validation is not None
    assert words.decode(data.validation[0]["input_ids"]) == "e f g </s>"


def test_batches_have_the_full_shape_or_the_rows_own(words, tmp_path: Path) -> None:
    source = open_examples(data_file(tmp_path, *ROWS))
    padded = plan(padded=True, seq_len=8)
    rows = tokenize_data(source, words, padded, tmp_path / "padded").train
    natural = collate([rows[0], rows[1]], padded, words, full_length=False)
    assert natural["input_ids"].shape == (2, 5)
    assert natural["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert natural["labels"][1].tolist()[-1] == IGNORED
    full = next(endless_batches(rows, padded, words, CPU, full_length=True))
    assert {tensor.shape for tensor in full.values()} == {torch.Size((2, 8))}
    assert (full["labels"][full["attention_mask"] == 0] == IGNORED).all()

    packed = tokenize_data(source, words, plan(micro_batch_size=3), tmp_path / "packed").train
    batches = endless_batches(packed, plan(micro_batch_size=3), words, CPU, full_length=False)
    seen = [next(batches) for _ in range(2)]
    assert set(seen[0]) == {"input_ids", "labels"}
    order = torch.cat([batch["input_ids"] for batch in seen]).tolist()
    assert order == [packed[index % 2]["input_ids"] for index in range(6)]


def test_many_rows_are_read_from_disk_one_by_one(words, tmp_path: Path) -> None:
    rows = [{"text": " ".join("abcdefg" * (1 + index % 17))} for index in range(5_000)]
    source = open_examples(data_file(tmp_path, *rows))
    data = tokenize_data(source, words, plan(padded=True, seq_len=128), tmp_path / "tokens")
    assert data.summary.num_tokens > 2**18  # more than the file holds in one piece
    assert len(data.train) == 5_000
    for index in (0, 3_123, 4_999, -1):
        assert len(data.train[index]["input_ids"]) == 7 * (1 + index % 5_000 % 17) + 1
    with pytest.raises(IndexError):
        data.train[5_000]
    few = tokenize_data(source, words, plan(), tmp_path / "few", limit=10)
    assert few.summary.num_examples == 10


def test_random_batches_are_the_same_each_time() -> None:
    first = next(random_batches(plan(), 100, CPU))["input_ids"]
    again = next(random_batches(plan(), 100, CPU))["input_ids"]
    assert first.shape == (2, 4)
    assert torch.equal(first, again)
