"""What a look at training data found, as records."""

from __future__ import annotations

from typing import Literal

from estimator.records import Record
from trainer.example_formats import ExampleFormat
from trainer.hosted import HostedVerdict

FindingKind = Literal[
    "broken",
    "roles",
    "refused_by_template",
    "nothing_learned",
    "too_long",
    "duplicate",
    "leak",
    "control_tokens",
    "control_characters",
]


class Finding(Record):
    """One kind of thing that was found, and in how many rows.

    Attributes:
        kind: A word for programs.
        hurts: Whether it would hurt training; otherwise it is only worth knowing.
        num: How many rows.
        what: In words.
        rows: The first of them: where each is, and what is special about it.
        fix: What to do.
    """

    kind: FindingKind
    hurts: bool
    num: int
    what: str
    rows: tuple[tuple[str, str], ...]
    fix: str


class Bar(Record):
    """Examples of at most so many tokens, and of more than the bar before."""

    max_tokens: int
    num_examples: int


class TokenCounts(Record):
    """Tokens per example.

    Attributes:
        basis: Counted with the plan's tokenizer, or estimated from the text's size.
        how: The same in words.
        total: Of all examples.
        longest_at: Where the longest example is.
        histogram: By powers of two.
    """

    basis: Literal["tokenizer", "estimate"]
    how: str
    total: int
    mean: float
    median: float
    p95: float
    longest: int
    longest_at: str
    histogram: tuple[Bar, ...]


class DataReport(Record):
    """What ``tuneplan data check`` says.

    Attributes:
        columns: Those that are read.
        ignored_columns: Those that are there and not read.
        num_rows: All rows, broken ones included.
        num_examples: Rows that are examples.
        num_train: Of them to train on.
        num_validation: Held out of them, or read from the validation source.
        validation_name: That source, or None where a share is held out.
        tokens: None where there is no example.
        seq_len: The plan's, or None without a plan.
        epochs: The plan's, or the default.
        findings: What was found, that which hurts first.
        hosted: Whether hosted fine-tuning would take the file.
        fingerprint: SHA-256 of the content.
        seconds: How long the look took.
    """

    name: str
    format: ExampleFormat
    columns: tuple[str, ...]
    ignored_columns: tuple[str, ...]
    num_rows: int
    num_examples: int
    num_train: int
    num_validation: int
    validation_name: str | None
    tokens: TokenCounts | None
    seq_len: int | None
    epochs: float
    findings: tuple[Finding, ...]
    hosted: HostedVerdict
    fingerprint: str
    seconds: float

    @property
    def is_fine(self) -> bool:
        """Whether nothing that was found would hurt training."""
        return not any(finding.hurts for finding in self.findings)

    @property
    def training_tokens(self) -> int | None:
        """What a hosted service bills: tokens times epochs; None without an example."""
        return round(self.tokens.total * self.epochs) if self.tokens else None

    @property
    def plan_words(self) -> tuple[str, ...]:
        """The ``--set`` words that tell a plan how much data there is."""
        if self.tokens is None:
            return ()
        return (
            f"data.num_examples={self.num_examples}",
            f"data.tokens_per_example={round(self.tokens.mean, 1)}",
        )
