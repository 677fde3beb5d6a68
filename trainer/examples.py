"""Training examples from a file or a Hub dataset, read one at a time and checked without torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from estimator.documents import is_there
from estimator.problems import InputError, Problem
from trainer.example_formats import (
    SHAPES,
    Columns,
    Example,
    ExampleFormat,
    RowProblem,
    Turn,
    example_of,
    find_columns,
)
from trainer.example_rows import FileKind, Row, file_kind, place, read_rows

__all__ = [
    "PROBE_EXAMPLES",
    "Example",
    "ExampleSource",
    "Found",
    "Turn",
    "content_digest",
    "is_on_hub",
    "open_examples",
]

MAX_NAMED_PROBLEMS = 20
"""How many broken rows an error names; the others it counts."""

PROBE_EXAMPLES = 10_000
"""How many examples a probe reads at most: its few steps take far fewer."""

Files = tuple[tuple[Path, FileKind], ...]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+(/[\w.-]+)?)?")


@dataclass(frozen=True, slots=True)
class Found:
    """One row of a source: where it is, and the example in it or what is wrong.

    Attributes:
        path: The file.
        kind: Of the file.
        number: Its line, item or row.
        value: The example, or the problem.
        raw: The row as it is written; None where it is no row at all.
    """

    path: Path
    kind: FileKind
    number: int
    value: Example | RowProblem
    raw: dict[str, Any] | None

    @property
    def where(self) -> str:
        """The file and line, as problems name them."""
        return place(self.path, self.kind, self.number)


@dataclass(slots=True)
class ExampleSource:
    """A file's or a Hub dataset's examples: iterate it any number of times.

    Only one row is in memory at a time (a JSON document, which is limited, apart).

    Attributes:
        name: What a person called it.
        files: What is read, in order.
        format: How rows become examples: named, or found in the first row.
        columns: The columns that are read.
        ignored_columns: Those that are there and not read.
    """

    name: str
    files: Files
    columns: Columns
    ignored_columns: tuple[str, ...] = ()
    _fingerprint: str = field(default="", repr=False)

    @property
    def format(self) -> ExampleFormat:
        """How rows become examples."""
        return self.columns.format

    def rows(self) -> Iterator[Found]:
        """Yield every row, broken ones included.

        Raises:
            InputError: A file as a whole cannot be read.
        """
        for path, kind in self.files:
            for number, value in read_rows(path, kind):
                raw = None if isinstance(value, RowProblem) else value
                yield Found(path, kind, number, self._example(value), raw)

    def _example(self, value: dict[str, Any] | RowProblem) -> Example | RowProblem:
        if isinstance(value, RowProblem):
            return value
        try:
            return example_of(value, self.columns)
        except RowProblem as problem:
            return problem

    def located(self, limit: int | None = None) -> Iterator[tuple[Found, Example]]:
        """Yield every example, or the first ``limit``, with where it is.

        Raises:
            InputError: Rows are broken, once they have been read: at most twenty are named, and
                the others counted; or there is no example at all.
        """
        problems: list[Problem] = []
        num_broken = num_examples = 0
        for found in self.rows():
            if limit is not None and num_examples >= limit:
                break
            if isinstance(found.value, RowProblem):
                num_broken += 1
                if num_broken <= MAX_NAMED_PROBLEMS:
                    what, fix = found.value.what, found.value.fix
                    problems.append(Problem(found.where, what, fix=fix))
            else:
                num_examples += 1
                yield found, found.value
        if num_broken > len(problems):
            more = f"{num_broken - len(problems):,} more rows are broken"
            fix = f"run `tuneplan data check {self.name}` for an overview"
            problems.append(Problem(self.name, more, fix=fix))
        if problems:
            raise InputError(problems)
        if not num_examples:
            raise _no_examples(self.name)

    def __iter__(self) -> Iterator[Example]:
        for _, example in self.located():
            yield example

    def check(self, limit: int | None = None) -> None:
        """Read every example, or the first ``limit``, to find what is wrong with them.

        Raises:
            InputError: Rows are broken, or there is no example.
        """
        for _ in self.located(limit):
            pass

    def fingerprint(self) -> str:
        """Return the SHA-256 of the content: of the files' bytes, one after the other.

        Raises:
            InputError: A file cannot be read.
        """
        if not self._fingerprint:
            digest = hashlib.sha256()
            for path, _ in self.files:
                try:
                    with path.open("rb") as stream:
                        while block := stream.read(2**20):
                            digest.update(block)
                except OSError as error:
                    what = f"cannot be read ({error.strerror})"
                    raise InputError(Problem(str(path), what)) from error
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def open_examples(source: str, format: str = "auto") -> ExampleSource:  # noqa: A002  the plan's key
    """Return a source of examples: what it is and how it is read, with no more than it takes.

    Args:
        source: A JSONL, JSON, CSV or Parquet file, or a dataset on the Hub: ``owner/name``,
            ``owner/name:config`` or ``owner/name:config/split`` (train where none is named).
        format: chat, prompt_completion, instruction, text; auto looks at the first rows.

    Raises:
        InputError: There is no such file or dataset, it is of no known kind, it holds no row, or
            no row has the columns of a format.
    """
    files: Files = tuple((path, file_kind(path)) for path in _paths(source))
    names: tuple[str, ...] = ()
    broken: list[Problem] = []
    for where, row in _all_rows(files):
        if isinstance(row.value, RowProblem):
            if len(broken) < MAX_NAMED_PROBLEMS:
                broken.append(Problem(where, row.value.what, fix=row.value.fix))
            continue
        names = tuple(map(str, row.value))
        columns = find_columns(names, format)
        if columns is None:
            raise InputError([*broken, _unknown_columns(where, names, format)])
        ignored = tuple(name for name in names if name not in columns.names)
        return ExampleSource(source, files, columns, ignored)
    raise InputError(broken) if broken else _no_examples(source)


def content_digest(example: Example) -> int:
    """Return 64 bits of a hash of what an example says: equal examples have equal ones.

    Two different ones among ten million have the same with a chance of 3e-6.
    """
    text = f"{len(example.prompt)}:{example.prompt}{example.completion}" + "".join(
        f"{turn.role}:{len(turn.content)}:{turn.content}" for turn in example.turns
    )
    data = text.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def is_on_hub(source: str) -> bool:
    """Return whether a source names a dataset on the Hub: a local path of that name comes first."""
    path = Path(source)
    is_file = is_there(path) or path.suffix in _FILE_SUFFIXES
    return not is_file and bool(_HUB_ID.fullmatch(source))


def _paths(source: str) -> list[Path]:
    if not is_on_hub(source):
        return [Path(source)]
    from estimator.hub_datasets import download_dataset

    return download_dataset(source)


_FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")


def _all_rows(files: Files) -> Iterator[tuple[str, Row]]:
    for path, kind in files:
        for row in read_rows(path, kind):
            yield place(path, kind, row.number), row


def _unknown_columns(where: str, names: tuple[str, ...], wanted: str) -> Problem:
    found = ", ".join(repr(name[:40]) for name in names[:8]) or "none"
    as_wanted = "" if wanted == "auto" else f" of the format {wanted}"
    what = f"does not have the columns{as_wanted} (it has {found})"
    return Problem(where, what, SHAPES, "rename its columns, or set data.format")


def _no_examples(name: str) -> InputError:
    return InputError(Problem(name, "holds no examples", SHAPES, "add some"))
