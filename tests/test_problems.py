import os
import stat
from datetime import date
from pathlib import Path

import pytest

from estimator.documents import (
    apply_overrides,
    parse_document,
    read_document,
    to_yaml,
    write_atomic,
    write_out,
)
from estimator.problems import InputError, Problem


def test_a_problem_is_one_line_of_where_what_allowed_and_fix() -> None:
    problem = Problem("plan.yaml: seq_len", "0 is not\n allowed", "1 or more", "change it")
    line = "plan.yaml: seq_len: 0 is not allowed; allowed: 1 or more; fix: change it"
    assert str(problem) == line
    assert str(Problem("a", "b")) == "a: b"
    assert str(InputError([problem, Problem("a", "b")])) == f"{line}\na: b"


def test_yaml_1_2_and_json_read_alike() -> None:
    text = "a: no\nb: 012\nc: 1_49\nd: [1, 2.5, null]\ne: 2026-11-21\n"
    document = parse_document(text, "x")
    assert document["a"] == "no"
    assert document["b"] == 12
    assert document["c"] == "1_49"
    assert document["d"] == [1, 2.5, None]
    assert parse_document('{"a": "no", "d": [1, 2.5, null]}', "x") == {
        "a": "no",
        "d": [1, 2.5, None],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1, 2\n", "line 2"),
        ("a: 1\na: 2\n", "duplicate key"),
        ("a: 1\n\tb: 2\n", "line 2"),
        ("- 1\n- 2\n", "holds list"),
        ("", "holds nothing"),
        ("just words", "holds str"),
        ("a: !!python/object:os.system 1\n", "line 1"),
        ("? [a, b]\n: 1\n", "not a key"),
        ("? [a, {b: c}]\n: 1\n", "not valid YAML"),
        ("a: &x [1, *x]\n", "an alias to something that it lies in"),
        ("a: &x {b: {c: *x}}\n", "an alias to something that it lies in"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    ],
)
def test_a_document_that_is_none_is_a_problem_with_its_place(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        parse_document(text, "plan.yaml")
    assert str(caught.value).startswith("plan.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_value_can_be_written_once_and_meant_twice() -> None:
    text = "a: &x {b: [1]}\nc: *x\nd: {<<: *x, e: 2}\n"
    document = parse_document(text, "plan.yaml")
    assert document == {"a": {"b": [1]}, "c": {"b": [1]}, "d": {"b": [1], "e": 2}}


def test_overrides_leave_the_document_as_it_was() -> None:
    document = {"day": date(2026, 11, 21), "a": {"b": [1]}}
    changed = apply_overrides(document, ["a.b=[2]", "a.c=3"])
    assert changed == {"day": date(2026, 11, 21), "a": {"b": [2], "c": 3}}
    assert document == {"day": date(2026, 11, 21), "a": {"b": [1]}}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_a_written_file_has_the_permissions_of_any_new_one(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "status.json", "{}")
        write_out(tmp_path / "out" / "report.html", "<html>")
    finally:
        os.umask(before)
    for path in (tmp_path / "status.json", tmp_path / "out" / "report.html"):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_file_that_cannot_be_read_is_a_problem_with_a_fix(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("é: 1".encode("latin-1"))
    for path, says in (
        (tmp_path / "missing.yaml", "no such file"),
        (tmp_path, "is a folder"),
        (latin, "not UTF-8"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            read_document(path)
        assert caught.value.problems[0].fix


def test_a_written_document_reads_back_in_its_order() -> None:
    value = {"z": 1, "a": {"on": "no", "number": 1.5}, "list": [None, True, "1_49"]}
    text = to_yaml(value)
    assert parse_document(text, "x") == value
    assert text.index("z:") < text.index("a:") < text.index("list:")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomic(path, "old")
    write_atomic(path, "new")
    assert path.read_text() == "new"
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "half \ud800")
    assert path.read_text() == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["status.json"]
    assert stat.S_ISREG(path.stat().st_mode)
