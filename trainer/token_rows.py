"""Rows of tokens in an Arrow file: written once, then read from disk as they are needed."""

from __future__ import annotations

import bisect
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import pyarrow
from pyarrow import ipc

from trainer.tokens import IGNORED, Tokens

if TYPE_CHECKING:
    import numpy

_TOKENS_PER_BATCH = 2**18
_SCHEMA = pyarrow.schema(
    [
        ("input_ids", pyarrow.list_(pyarrow.int32())),
        ("labels", pyarrow.list_(pyarrow.int32())),
    ]
)


class TokenRow(TypedDict):
    """One row of training: its tokens, and what is to be predicted of them."""

    input_ids: list[int]
    labels: list[int]


class TokenRows:
    """The rows in an Arrow file, memory-mapped: what is not read takes no memory."""

    def __init__(self, path: Path) -> None:
        """Open a file that :class:`RowWriter` wrote.

        Raises:
            OSError: There is no such file.
            pyarrow.ArrowInvalid: It is not whole.
        """
        reader = ipc.open_file(pyarrow.memory_map(str(path)))
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._ends = list(accumulate(batch.num_rows for batch in batches))
        self._columns = [
            [_Lists(batch.column(name)) for name in ("input_ids", "labels")] for batch in batches
        ]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> TokenRow:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        batch = bisect.bisect_right(self._ends, index)
        inside = index - (self._ends[batch - 1] if batch else 0)
        input_ids, labels = (column.row(inside) for column in self._columns[batch])
        return {"input_ids": input_ids, "labels": labels}


class _Lists:
    """A column of lists, as the two arrays that Arrow keeps it in."""

    def __init__(self, column: pyarrow.ListArray) -> None:
        self._offsets: numpy.ndarray = column.offsets.to_numpy()
        self._values: numpy.ndarray = column.values.to_numpy()

    def row(self, index: int) -> list[int]:
        start, end = self._offsets[index : index + 2]
        return self._values[start:end].tolist()


class RowWriter:
    """Writes rows of a plan's shape: packed ones all full, padded ones an example each.

    Packed, examples follow each other and go on in the next row; what is left at the end is
    filled up with the end of sequence, not learned. A row with nothing to learn is not written.

    Attributes:
        num_rows: Written.
        num_learned_tokens: In the rows written, as far as a row has something before them.
        num_tokens_cut: In the rows that were not written.
    """

    def __init__(self, path: Path, seq_len: int, *, padded: bool, filler: int) -> None:
        self.num_rows = self.num_learned_tokens = self.num_tokens_cut = 0
        self._seq_len, self._padded, self._filler = seq_len, padded, filler
        self._stream: Tokens = Tokens([], [])
        self._rows: list[Tokens] = []
        self._num_waiting = 0
        self._writer = ipc.new_file(str(path), _SCHEMA)

    def add(self, tokens: Tokens) -> None:
        """Add an example's tokens."""
        if self._padded:
            self._add_row(tokens)
            return
        ids, labels = self._stream
        ids.extend(tokens.input_ids)
        labels.extend(tokens.labels)
        length = self._seq_len
        full = len(ids) // length * length
        for start in range(0, full, length):
            end = start + length
            self._add_row(Tokens(ids[start:end], labels[start:end]))
        del ids[:full], labels[:full]

    def close(self) -> None:
        """Write what is left and close the file."""
        if rest := len(self._stream.input_ids):
            missing = self._seq_len - rest
            ids = self._stream.input_ids + [self._filler] * missing
            self._add_row(Tokens(ids, self._stream.labels + [IGNORED] * missing), rest)
        self._write()
        self._writer.close()

    def _add_row(self, row: Tokens, num_tokens: int | None = None) -> None:
        num_learned = sum(label != IGNORED for label in row.labels[1:])
        if not num_learned:
            self.num_tokens_cut += len(row.input_ids) if num_tokens is None else num_tokens
            return
        self.num_rows += 1
        self.num_learned_tokens += num_learned
        self._rows.append(row)
        self._num_waiting += len(row.input_ids)
        if self._num_waiting >= _TOKENS_PER_BATCH:
            self._write()

    def _write(self) -> None:
        if self._rows:
            columns = [
                pyarrow.array(column, _SCHEMA[0].type) for column in zip(*self._rows, strict=True)
            ]
            self._writer.write_batch(pyarrow.record_batch(columns, schema=_SCHEMA))
            self._rows, self._num_waiting = [], 0
