"""`tuneplan data`: what is wrong with training data is found, named and shown harmlessly."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from estimator.plan import FineTunePlan, load_plan
from trainer.data_check import check_data, plan_encoder
from trainer.data_report import DataReport
from trainer.examples import open_examples

EXAMPLES = Path(__file__).parents[1] / "examples"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: its exit status, stdout and stderr."""
    import tuneplan

    monkeypatch.setenv("COLUMNS", "120")

    def run_(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["tuneplan", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            tuneplan.main()
        status = ended.value.code
        return int(status or 0), *capfd.readouterr()

    return run_


def pairs(tmp_path: Path, *texts: tuple[str, str], name: str = "data.jsonl") -> Path:
    path = tmp_path / name
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chats(tmp_path: Path, *conversations: str) -> Path:
    """Conversations by their roles' first letters: ``sua`` is system, user, assistant."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    rows = [
        {"messages": [{"role": names[one], "content": f"{number} {one}"} for one in roles]}
        for number, roles in enumerate(conversations)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found(report: DataReport) -> dict[str, list[tuple[str, str]]]:
    return {
        finding.kind: [(where.rpartition(": ")[2], what) for where, what in finding.rows]
        for finding in report.findings
    }


@pytest.fixture(scope="module")
def tiny() -> FineTunePlan:
    return load_plan(EXAMPLES / "tiny.yaml")


def test_the_bundled_examples_are_fine_and_their_tokens_counted(tiny: FineTunePlan) -> None:
    source = open_examples(str(EXAMPLES / "questions.jsonl"))
    report = check_data(source, plan=tiny, encoder=plan_encoder(tiny))
    assert report.is_fine
    assert report.findings == ()
    assert (report.num_examples, report.num_train + report.num_validation) == (50, 50)
    assert report.tokens is not None
    assert report.tokens.basis == "tokenizer"
    assert report.tokens.total == 1487
    assert report.plan_words == ("data.num_examples=50", "data.tokens_per_example=29.7")
    assert report.training_tokens == 1487 * tiny.epochs
    assert sum(bar.num_examples for bar in report.tokens.histogram) == 50
    chat = check_data(open_examples(str(EXAMPLES / "chat.jsonl")))
    assert chat.is_fine
    assert chat.hosted.valid
    assert chat.tokens is not None
    assert chat.tokens.basis == "estimate"


def test_broken_rows_and_duplicates_are_named(tmp_path: Path) -> None:
    path = pairs(tmp_path, ("a", "b"), ("c", "d"), ("a", "b"), ("e", "f"), ("a", "b"))
    path.write_text(path.read_text() + '{"prompt": "g", "completion": " "}\n{"prompt"\n')
    report = check_data(open_examples(str(path)))
    assert not report.is_fine
    assert (report.num_rows, report.num_examples) == (7, 5)
    assert found(report) == {
        "broken": [
            ("line 6", "'completion' is empty"),
            ("line 7", "is not JSON (Expecting ':' delimiter at column 10)"),
        ],
        "duplicate": [("line 3", f"as {path}: line 1"), ("line 5", f"as {path}: line 1")],
    }


def test_roles_out_of_order_and_refused_conversations_are_named(
    tmp_path: Path, tiny: FineTunePlan
) -> None:
    path = chats(tmp_path, "sua", "uuta", "usa", "aua", "uata", "uaa", "ua")
    report = check_data(open_examples(str(path)))
    assert found(report)["roles"] == [
        ("line 2", "two messages of the user follow each other"),
        ("line 3", "a system message that is not the first"),
        ("line 4", "the assistant speaks first"),
        ("line 6", "two messages of the assistant follow each other"),
    ]
    encoder = plan_encoder(tiny)
    assert encoder is not None
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}x"
    refusing = check_data(
        open_examples(str(path)), plan=tiny, encoder=replace(encoder, chat_template=strict)
    )
    assert found(refusing)["refused_by_template"] == [
        ("line 1", "the chat template refuses it (no)")
    ]


def test_lengths_are_held_against_seq_len_as_the_plan_lays_rows_out(
    tmp_path: Path, tiny: FineTunePlan
) -> None:
    path = pairs(tmp_path, ("why", "so"), ("why", "word " * 40), ("long " * 40, "so"))
    padded = tiny.changed(seq_len=32, padded=True)
    report = check_data(open_examples(str(path)), plan=padded, encoder=plan_encoder(padded))
    kinds = found(report)
    assert [where for where, _ in kinds["too_long"]] == ["line 2"]
    assert [where for where, _ in kinds["nothing_learned"]] == ["line 3"]
    packed = check_data(open_examples(str(path)), plan=tiny.changed(seq_len=32))
    assert packed.is_fine  # an example goes on in the next row


def test_what_is_held_out_and_trained_on_is_a_leak(tmp_path: Path) -> None:
    train = pairs(tmp_path, ("a", "b"), ("c", "d"))
    held_out = pairs(tmp_path, ("x", "y"), ("c", "d"), name="held-out.jsonl")
    report = check_data(open_examples(str(train)), validation=open_examples(str(held_out)))
    assert found(report) == {"leak": [("line 2", "")]}
    assert (report.num_train, report.num_validation) == (2, 2)


def test_control_tokens_and_characters_are_worth_knowing(
    tmp_path: Path, tiny: FineTunePlan
) -> None:
    path = pairs(tmp_path, ("a", "b</s>c"), ("d", "e\x00"), ("f", "tab\tand\nline"))
    report = check_data(open_examples(str(path)), plan=tiny, encoder=plan_encoder(tiny))
    assert report.is_fine
    assert found(report) == {
        "control_tokens": [("line 1", "</s>")],
        "control_characters": [("line 2", "'\\x00'")],
    }


def test_hosted_fine_tuning_says_what_it_would_not_take(tmp_path: Path) -> None:
    path = chats(tmp_path, *["ua"] * 4)
    few = check_data(open_examples(str(path))).hosted
    assert few.reasons == ("4 examples, and at least 10 are needed",)
    assert all("http" in source and "as of 20" in source for source in few.sources)
    row = {"role": "user", "content": "x", "mood": "good"}
    more = json.dumps({"messages": [row, {"role": "assistant", "content": "y"}]})
    path.write_text(path.read_text() * 3 + f"{more}\n")
    (reason,) = check_data(open_examples(str(path))).hosted.reasons
    assert reason.startswith("a key of a message other than role, content")
    assert reason.endswith(": 1 (line 13)")


def test_the_command_shows_numbers_findings_and_the_words_for_a_plan(
    run: Run, tmp_path: Path
) -> None:
    status, shown, _ = run(
        "data", "check", EXAMPLES / "questions.jsonl", "--plan", EXAMPLES / "tiny.yaml"
    )
    assert status == 0
    for words in (
        "50 examples",
        "mean 29.7",
        "Nothing was found that would hurt training",
        "1,487 tokens x 3 epochs = 4,461 training tokens",
        "--set data.num_examples=50 --set data.tokens_per_example=29.7",
    ):
        assert words in shown
    bad = pairs(tmp_path, ("a", "b"), ("a", "b"))
    status, shown, _ = run("data", "check", bad, "--json")
    assert status == 1
    answer = json.loads(shown)
    assert answer["findings"][0]["kind"] == "duplicate"
    assert answer["fine"] is False
    assert answer["set"][0] == "data.num_examples=2"
    status, shown, problem = run("data", "check", tmp_path / "none.jsonl")
    assert (status, shown) == (2, "")
    assert "No such file" in problem
    assert run("data", "check", bad, "--set", "seq_len=3")[0] == 2


def test_the_check_starts_no_heavy_library() -> None:
    program = (
        f"import sys; sys.argv = ['tuneplan', 'data', 'check', {str(EXAMPLES / 'chat.jsonl')!r},"
        f" '--plan', {str(EXAMPLES / 'tiny.yaml')!r}]\n"
        "import atexit, tuneplan\n"
        "names = ('torch', 'transformers', 'pandas', 'pyarrow', 'streamlit', 'huggingface_hub')\n"
        "atexit.register(lambda: print([name for name in names if name in sys.modules]))\n"
        "tuneplan.main()"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_hostile_text_reaches_the_terminal_written_out(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "hostile.jsonl"
    row = {"text": "[red]x[/red] \x1b[2J <script>", "\x1b]0;owned\x07": 1, "\ud800": 2}
    path.write_text(json.dumps(row) + '\n{"text": {"\\u001b[2J": 1}}\n')
    for options in ((), ("--json",)):
        status, shown, _ = run("data", "check", path, *options)
        assert status == 1
        assert "\x1b" not in shown
        assert "\x07" not in shown
    assert "\\ud800" in shown


@pytest.mark.parametrize("name", ["questions.jsonl", "chat.jsonl"])
def test_converted_data_says_the_same(run: Run, tmp_path: Path, name: str) -> None:
    hosted, again = tmp_path / "hosted.jsonl", tmp_path / "again.jsonl"
    assert run("data", "convert", EXAMPLES / name, "--to", "openai", "-o", hosted)[0] == 0
    assert check_data(open_examples(str(hosted))).hosted.valid
    assert run("data", "convert", EXAMPLES / name, "--to", "jsonl", "-o", again)[0] == 0
    assert list(open_examples(str(again))) == list(open_examples(str(EXAMPLES / name)))


def test_what_cannot_be_converted_leaves_the_file_that_was_there(run: Run, tmp_path: Path) -> None:
    source, target = tmp_path / "text.jsonl", tmp_path / "out.jsonl"
    target.write_text("as before")
    source.write_text('{"text": "words"}\n')
    status, _, problem = run("data", "convert", source, "--to", "openai", "-o", target, "--force")
    assert status == 2
    assert "no conversation" in problem
    source.write_text('{"text": "words"}\n{"text": 3}\n')
    assert run("data", "convert", source, "--to", "jsonl", "-o", target, "--force")[0] == 2
    assert target.read_text() == "as before"
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["out.jsonl", "text.jsonl"]


def test_no_file_is_replaced_unasked_and_never_the_data_itself(run: Run, tmp_path: Path) -> None:
    source, target = tmp_path / "one.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "a", "completion": "b"}\n')
    target.write_text("as before")
    command = ("data", "convert", source, "--to", "openai", "-o")
    status, _, problem = run(*command, target)
    assert (status, target.read_text()) == (2, "as before")
    assert "is there already" in problem
    status, shown, _ = run(*command, target, "--force")
    assert (status, shown.strip()) == (0, f"{target}: 1 example")
    status, _, problem = run(*command, source, "--force")
    assert status == 2
    assert "is the data that is to be converted" in problem
    assert run("data", "check", tmp_path)[2].count("is a folder") == 1
