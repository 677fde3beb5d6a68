"""Data files of every kind and format are read, and every row that is no example is named."""

import json
import time
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from estimator.problems import InputError
from trainer.examples import Example, Turn, open_examples

PAIR = (Turn("user", "why?"), Turn("assistant", "because"))
CHAT = {
    "messages": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}]
}


def written(tmp_path: Path, *lines: str, name: str = "data.jsonl") -> str:
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("row", "form", "example"),
    [
        (CHAT, "chat", Example(turns=PAIR)),
        (
            {
                "conversations": [
                    {"from": "human", "value": "why?"},
                    {"from": "gpt", "value": "because"},
                ]
            },
            "chat",
            Example(turns=PAIR),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "why?"}]},
                    {"role": "assistant", "content": "because", "weight": 0},
                    CHAT["messages"][1],
                ]
            },
            "chat",
            Example(turns=(PAIR[0], Turn("assistant", "because", is_learned=False), PAIR[1])),
        ),
        (
            {"prompt": "why?", "completion": "because"},
            "prompt_completion",
            Example("why?\n", "because"),
        ),
        (
            {"messages": [{"role": "system", "content": ""}, *CHAT["messages"]]},
            "chat",
            Example(turns=(Turn("system", ""), *PAIR)),
        ),
        ({"prompt": "why", "completion": " not"}, "prompt_completion", Example("why", " not")),
        ({"question": "why?", "answer": "so"}, "prompt_completion", Example("why?\n", "so")),
        (
            {"instruction": "why?", "input": "", "output": "because"},
            "instruction",
            Example(turns=PAIR),
        ),
        (
            {"instruction": "Add.", "input": "1 + 1", "output": "2"},
            "instruction",
            Example(turns=(Turn("user", "Add.\n\n1 + 1"), Turn("assistant", "2"))),
        ),
        ({"text": "all of it"}, "text", Example("", "all of it")),
    ],
)
def test_each_format_is_found_by_its_columns(
    tmp_path: Path, row: dict[str, object], form: str, example: Example
) -> None:
    source = open_examples(written(tmp_path, json.dumps(row | {"id": 7}), "", json.dumps(row)))
    assert list(source) == [example, example]
    assert list(source) == [example, example]  # any number of times
    assert source.format == form
    assert source.ignored_columns == ("id",)


def test_a_format_can_be_named_and_then_decides(tmp_path: Path) -> None:
    path = written(tmp_path, '{"prompt": "a", "completion": "b", "text": "c"}')
    assert list(open_examples(path, "text")) == [Example("", "c")]
    with pytest.raises(InputError, match=r"columns of the format chat \(it has 'prompt', 'compl"):
        open_examples(path, "chat")


def test_json_csv_and_parquet_hold_the_same_as_jsonl(tmp_path: Path) -> None:
    rows = [
        {"prompt": 'say "hi", all', "completion": "hi\nall"},
        {"prompt": "a", "completion": "é"},
    ]
    expected = [Example('say "hi", all\n', "hi\nall"), Example("a\n", "é")]
    files = [
        written(tmp_path, *map(json.dumps, rows), name="rows.json"),  # JSONL under another name
        written(tmp_path, json.dumps(rows, indent=1), name="list.json"),
        written(tmp_path, json.dumps({"data": rows}), name="data.json"),
        written(
            tmp_path,
            "\ufeffid,prompt,completion",
            '1,"say ""hi"", all","hi\nall"',
            "2,a,é",
            name="a.csv",
        ),
        written(
            tmp_path, "prompt\tcompletion", '"say ""hi"", all"\t"hi\nall"', "a\té", name="a.tsv"
        ),
        str(tmp_path / "a.parquet"),
    ]
    parquet.write_table(
        pyarrow.Table.from_pylist([{"image": b"0", **row} for row in rows]), files[-1]
    )
    for file in files:
        assert list(open_examples(file)) == expected, file
    assert open_examples(files[-1]).ignored_columns == ("image",)
    chat = tmp_path / "chat.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([CHAT]), chat)
    assert list(open_examples(str(chat))) == [Example(turns=PAIR)]


def test_a_line_ends_at_a_newline_alone_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    text = '{"text": "one\u2028line"}\r\n{"text": "another\x85"}\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert list(open_examples(str(path))) == [
        Example("", "one\u2028line"),
        Example("", "another\x85"),
    ]


def problems(path: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        list(open_examples(path))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "no end', "is not JSON (Unterminated string"),
        ('{"question": "which key?"}', "has no 'text'"),
        ("[1]", "is not a mapping"),
        ('{"text": ""}', "'text' is empty"),
        ('{"text": 3}', "'text' is a number, not text"),
        ('{"text": null}', "'text' is missing"),
        ('{"text": "\\ud83d"}', "half of a character"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"text": ' + "9" * 5_000 + "}", "a number of too many digits"),
        ("\0\0", "is not JSON"),
    ],
)
def test_a_row_that_is_no_example_is_named_with_its_line(
    tmp_path: Path, line: str, says: str
) -> None:
    found = problems(written(tmp_path, '{"text": "good"}', "", line, '{"text": "good"}'))
    assert len(found) == 1
    assert "data.jsonl: line 3: " in found[0]
    assert says in found[0]
    assert "fix: " in found[0]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "'messages' is an empty list"),
        ("hello", "not a JSON list of messages"),
        ([3], "messages[0] is a number, not a message"),
        ([{"role": "boss", "content": "x"}], "messages[0] has the role 'boss'"),
        ([{"role": "\x1b[2Jassistant", "content": "x"}], "the role '\\x1b[2Jassistant'"),
        ([{"content": "x"}], "messages[0] has no role"),
        ([{"role": "assistant", "content": None}], "messages[0] content' is missing"),
        ([{"role": "assistant", "content": [{"type": "image_url"}]}], "a part that is not text"),
        ([{"role": "assistant", "content": None, "tool_calls": [1]}], "calls a tool"),
        ([{"role": "assistant", "content": "x", "weight": 0.5}], "weight other than 0 and 1"),
        ([{"role": "assistant", "content": "x", "weight": 0}], "nothing is learned"),
        ([{"role": "user", "content": "x"}], "ends with the user's message"),
    ],
)
def test_a_broken_conversation_is_named(tmp_path: Path, messages: object, says: str) -> None:
    found = problems(written(tmp_path, json.dumps(CHAT), json.dumps({"messages": messages})))
    assert len(found) == 1
    assert "line 2: " in found[0]
    assert says in found[0]
    assert found[0].isprintable()


def test_twenty_broken_rows_are_named_and_the_others_counted(tmp_path: Path) -> None:
    found = problems(written(tmp_path, '{"text": "good"}', *["{"] * 45))
    assert len(found) == 21
    assert "line 21: " in found[19]
    assert "25 more rows are broken" in found[20]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.jsonl", None, "No such file"),
        ("owner/name.jsonl", None, "No such file"),
        (".", None, "is a folder"),
        ("empty.jsonl", b"\n\n", "holds no examples"),
        ("empty.json", b"[]", "holds no examples"),
        ("a.txt", b"some words", "is no data file"),
        ("a.jsonl", "{}".encode("utf-16"), "is UTF-16"),
        ("a.jsonl", b'{"text": "\xff"}', "line 1: is not UTF-8 text (byte 11"),
        ("a.jsonl", b'{"colour": "red", "\\u001b": 1}', "(it has 'colour', '\\x1b')"),
        ("a.json", b'{"rows":\n {}}', "holds no list of examples"),
        ("a.json", b"[1, 2", "is not JSON"),
        ("a.json", b"[" * 100_000, "is nested too deeply"),
        ("a.csv", b"prompt,completion\na\n", "line 2: has 1 cells, and the header 2"),
        ("a.csv", b'prompt,completion\na,"b\nc,d\n', "line 2: is not CSV"),
        ("a.csv", b"prompt,completion\na,\xff\n", "line 2: is not UTF-8"),
        ("a.parquet", b"PAR1 not really", "is not Parquet that can be read"),
        ("\0", None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_says_so_once(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    found = problems(str(tmp_path / name))
    assert len(found) == 1
    assert says in found[0]
    assert found[0].isprintable() or name == "\0"


def test_markup_formulas_and_long_lines_are_text_like_any_other(tmp_path: Path) -> None:
    texts = ["<script>alert(1)</script>", "=HYPERLINK(0)", "a\0b", "\x1b[2J", "x" * 10_000_000]
    source = open_examples(written(tmp_path, *(json.dumps({"text": text}) for text in texts)))
    assert [example.completion for example in source] == texts


def test_a_dataset_of_the_hub_is_not_asked_for_where_there_is_no_connection() -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match="owner/name: is no file here"):
        open_examples("owner/name")
    assert time.monotonic() - started < 10


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    one, same = (written(tmp_path, '{"text": "a"}', name=name) for name in ("a.jsonl", "b.jsonl"))
    other = written(tmp_path, '{"text": "b"}', name="c.jsonl")
    prints = [open_examples(path).fingerprint() for path in (one, same, other)]
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 64
