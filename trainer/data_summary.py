"""What became of a source of examples: a plain record, readable without torch or Arrow."""

from __future__ import annotations

from estimator.records import Record
from trainer.example_formats import ExampleFormat


class DataSummary(Record):
    """What became of the examples: counts are of both sides together unless they say so.

    Attributes:
        name: The source, as it was named.
        format: How its rows were read.
        columns: Those that were read.
        ignored_columns: Those that were there and not read.
        template: Which chat template was used, in words; None where none is needed.
        num_examples: Read.
        num_train: Of them to train on.
        num_validation: Of them held out, or read from the source named for it.
        num_train_rows: Rows of ``seq_len`` tokens where packed, of one example where padded.
        num_validation_rows: The same of what is held out.
        num_tokens: Of all examples, whole.
        num_learned_tokens: In the rows.
        num_truncated: Examples cut at ``seq_len``; packed ones go on in the next row.
        num_tokens_cut: Tokens in no row.
        left_out: Examples in no row, by reason.
        longest_example_tokens: Before any cut.
        longest_example: Where that one is.
        fingerprint: SHA-256 of the source's content.
        validation_name: The source named for validation, None where a part is held out.
        validation_fingerprint: SHA-256 of its content.
    """

    name: str
    format: ExampleFormat
    columns: tuple[str, ...] = ()
    ignored_columns: tuple[str, ...] = ()
    template: str | None
    num_examples: int
    num_train: int
    num_validation: int
    num_train_rows: int
    num_validation_rows: int
    num_tokens: int
    num_learned_tokens: int
    num_truncated: int
    num_tokens_cut: int
    left_out: dict[str, int]
    longest_example_tokens: int
    longest_example: str
    fingerprint: str
    validation_name: str | None = None
    validation_fingerprint: str | None = None

    @property
    def num_left_out(self) -> int:
        """Examples in no row."""
        return sum(self.left_out.values())

    @property
    def tokens_per_example(self) -> float:
        """The mean, before any cut."""
        return self.num_tokens / self.num_examples
