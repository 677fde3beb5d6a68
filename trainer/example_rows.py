"""Rows of data files: JSONL, JSON, CSV and Parquet, one at a time and never all in memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from estimator.problems import InputError, Problem
from trainer.example_formats import KNOWN_COLUMNS, RowProblem

FileKind = Literal["jsonl", "json", "csv", "parquet"]

MAX_LINE_BYTES = 64 * 2**20
"""A longer line is a problem, not an example: no context window holds a tenth of it."""

MAX_JSON_BYTES = 256 * 2**20
"""A JSON document is read whole, and takes several times its size in memory."""

_SUFFIXES: dict[str, FileKind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_BOM = b"\xef\xbb\xbf"
_ALLOWED = "JSONL, JSON, CSV or Parquet"


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        number: Its line (JSONL, CSV), or its place (JSON, Parquet), from 1.
        value: Its columns, or what is wrong with it.
    """

    number: int
    value: dict[str, Any] | RowProblem


def file_kind(path: Path) -> FileKind:
    """Return what kind of data file this is, by its name or else by how it begins.

    Raises:
        InputError: It cannot be read, or is no data file.
    """
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if is_folder:
        raise InputError(Problem(str(path), "is a folder", _ALLOWED, "name a file in it"))
    try:
        with path.open("rb") as stream:
            start = stream.read(4096)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(Problem(str(path), "is UTF-16 text", "UTF-8", "save it as UTF-8"))
    if start.startswith(b"PAR1"):
        return "parquet"
    if known := _SUFFIXES.get(path.suffix.lower()):
        return known
    text = start.removeprefix(_BOM).lstrip()
    if text.startswith(b"["):
        return "json"
    if text.startswith(b"{"):
        with path.open("rb") as stream:
            return "jsonl" if _is_row(stream.readline(MAX_LINE_BYTES)) else "json"
    if path.suffix.lower() == ".json":
        return "json"
    what = "is no data file that can be read here"
    raise InputError(Problem(str(path), what, _ALLOWED, "save it as one of these"))


def read_rows(path: Path, kind: FileKind) -> Iterator[Row]:
    """Yield a file's rows in order, broken ones included; empty lines are skipped.

    Raises:
        InputError: The file as a whole cannot be read.
    """
    reader = {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet}[kind]
    try:
        yield from reader(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def place(path: Path, kind: FileKind, number: int) -> str:
    """Return how a problem names a row."""
    unit = {"jsonl": "line", "csv": "line", "json": "item", "parquet": "row"}[kind]
    return f"{path}: {unit} {number}"


def _unreadable(path: Path, error: OSError | ValueError) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    what = f"cannot be read ({reason})"
    return InputError(Problem(str(path), what, _ALLOWED, "name a file that is there"))


def _is_row(line: bytes) -> bool:
    """Whether a file's first line is a row by itself, so that the file is JSONL."""
    try:
        value = json.loads(line.removeprefix(_BOM))
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and not isinstance(value.get("data"), list)


def _lines(path: Path) -> Iterator[tuple[int, str | RowProblem]]:
    """Yield a text file's lines by number, cut at newlines alone: JSON may hold U+2028."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES):
            number += 1
            if number == 1:
                line = line.removeprefix(_BOM)
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                size = MAX_LINE_BYTES // 2**20
                yield number, RowProblem(f"is longer than {size} MiB", "split or remove it")
                continue
            try:
                yield number, line.decode()
            except UnicodeDecodeError as error:
                what = f"is not UTF-8 text (byte {error.start + 1} of the line)"
                yield number, RowProblem(what, "save the file as UTF-8")


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if isinstance(line, RowProblem):
            yield Row(number, line)
        elif line and not line.isspace():
            yield Row(number, _parsed(line.rstrip("\r\n")))


def _parsed(line: str) -> dict[str, Any] | RowProblem:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return RowProblem(f"is not JSON ({error.msg.removesuffix(' at')} at column {error.colno})")
    except RecursionError:
        return RowProblem("is nested too deeply to be read")
    except ValueError:
        return RowProblem("holds a number of too many digits", "write it as text")
    return _mapping(value)


def _mapping(value: Any) -> dict[str, Any] | RowProblem:
    return value if isinstance(value, dict) else RowProblem("is not a mapping of columns to values")


def _json(path: Path) -> Iterator[Row]:
    if path.stat().st_size > MAX_JSON_BYTES:
        what = f"is a JSON document of more than {MAX_JSON_BYTES // 2**20} MiB"
        fix = "save it as JSONL (one example a line), which is read line by line"
        raise InputError(Problem(str(path), what, fix=fix))
    try:
        value = json.loads(path.read_bytes().removeprefix(_BOM))
    except RecursionError as error:
        what = "is nested too deeply to be read"
        raise InputError(Problem(str(path), what, fix="write it flatter")) from error
    except ValueError as error:
        what = f"is not JSON ({' '.join(str(error).split())[:200]})"
        raise InputError(Problem(str(path), what, fix="correct it, or save it as JSONL")) from error
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        what = "holds no list of examples"
        allowed = 'a list of examples, or {"data": [...]}'
        raise InputError(Problem(str(path), what, allowed, "put the examples in a list"))
    for number, row in enumerate(rows, start=1):
        yield Row(number, _mapping(row))


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE_BYTES)  # the default, 128 KiB, is less than a long document
    header: list[str] = []
    started = 1
    reader = csv.reader(_csv_lines(path), delimiter=_delimiter(path), strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # An open quotation mark swallows all that follows: there is no next row to go on with.
            yield Row(started, RowProblem(f"is not CSV ({error}); no row after it was read"))
            return
        number, started = started, reader.line_num + 1
        if not header:
            header = [cell.strip() for cell in cells]
        elif len(cells) != len(header):
            what = f"has {len(cells)} cells, and the header {len(header)}"
            if cells:
                yield Row(number, RowProblem(what, "quote cells that hold the delimiter"))
        else:
            yield Row(number, dict(zip(header, cells, strict=True)))


def _csv_lines(path: Path) -> Iterator[str]:
    for number, line in _lines(path):
        if isinstance(line, RowProblem):
            where = place(path, "csv", number)
            raise InputError(Problem(where, line.what, fix=line.fix))
        yield line


def _delimiter(path: Path) -> str:
    """The delimiter of a CSV file: the most frequent candidate in its header."""
    header = next(_csv_lines(path), "")
    return max(",;\t", key=header.count)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            names = file.schema_arrow.names
            known = [name for name in names if name in KNOWN_COLUMNS]
            # Columns that no format reads may be images: they are named, and not loaded.
            others = dict.fromkeys(name for name in names if name not in KNOWN_COLUMNS)
            for batch in file.iter_batches(batch_size=256, columns=known):
                for row in batch.to_pylist() if known else [{}] * batch.num_rows:
                    number += 1
                    yield Row(number, others | row)
    except pyarrow.ArrowException as error:
        what = f"is not Parquet that can be read ({' '.join(str(error).split())[:200]})"
        raise InputError(Problem(str(path), what, fix="write it again")) from error
