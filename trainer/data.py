"""Rows of tokens → batches of tensors, in the shapes that training, probe and dry run take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import torch

from estimator.plan import FineTunePlan
from trainer.step import Batch
from trainer.token_rows import TokenRow, TokenRows
from trainer.tokens import IGNORED


def collate(
    rows: Sequence[TokenRow], plan: FineTunePlan, tokenizer: Any, *, full_length: bool
) -> Batch:
    """Return rows as one batch of tensors on the CPU.

    Packed rows are all ``seq_len`` long. Padded ones are filled up on the right, with an attention
    mask that says so; the loss leaves the filling out.

    Args:
        rows: Of a :class:`TokenRows`, at least one.
        plan: Tells ``seq_len`` and whether rows are padded.
        tokenizer: Hugging Face's; its padding token fills up, or its end of sequence.
        full_length: Fill up to ``seq_len``, the shape that a dry run reads, rather than to the
            longest of these rows.
    """
    if not plan.padded:
        return {
            "input_ids": torch.tensor([row["input_ids"] for row in rows]),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }
    lengths = [len(row["input_ids"]) for row in rows]
    length = plan.seq_len if full_length else max(lengths)
    filler = _filler(tokenizer)
    return {
        "input_ids": torch.tensor([_filled(row["input_ids"], length, filler) for row in rows]),
        "labels": torch.tensor([_filled(row["labels"], length, IGNORED) for row in rows]),
        "attention_mask": torch.tensor([_filled([1] * size, length, 0) for size in lengths]),
    }


def _filler(tokenizer: Any) -> int:
    if tokenizer.pad_token_id is not None:
        return tokenizer.pad_token_id
    return tokenizer.eos_token_id or 0


def _filled(values: list[int], length: int, filler: int) -> list[int]:
    return values + [filler] * (length - len(values))


def endless_batches(
    dataset: TokenRows,
    plan: FineTunePlan,
    tokenizer: Any,
    device: torch.device,
    *,
    full_length: bool,
) -> Iterator[Batch]:
    """Yield batches of ``micro_batch_size`` rows for ever, in the rows' own order.

    Args:
        dataset: At least one row.
        plan: Tells the shape.
        tokenizer: Hugging Face's.
        device: Where the batches go.
        full_length: As :func:`collate` takes it: the peak's shape, or the data's own.
    """
    for start in count(0, plan.micro_batch_size):
        chosen = range(start, start + plan.micro_batch_size)
        rows = [dataset[index % len(dataset)] for index in chosen]
        batch = collate(rows, plan, tokenizer, full_length=full_length)
        yield {name: tensor.to(device) for name, tensor in batch.items()}


def random_batches(plan: FineTunePlan, vocab_size: int, device: torch.device) -> Iterator[Batch]:
    """Yield batches of random tokens for ever: what a probe without data runs on."""
    generator = torch.Generator().manual_seed(0)
    shape = (plan.micro_batch_size, plan.seq_len)
    while True:
        ids = torch.randint(vocab_size, shape, generator=generator).to(device)
        batch = {"input_ids": ids, "labels": ids.clone()}
        if plan.padded:
            batch["attention_mask"] = torch.ones_like(ids)
        yield batch
