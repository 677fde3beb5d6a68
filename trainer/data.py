"""Examples → batches of tokens, every one of the plan's full shape."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer.examples import Example
from trainer.step import Batch

IGNORED = -100
"""The label of a token that the loss leaves out (PyTorch's cross entropy ignores it)."""


def example_batches(
    examples: list[Example], tokenizer: Any, plan: FineTunePlan, device: torch.device
) -> Iterator[Batch]:
    """Yield batches of examples for ever, all of shape (micro_batch_size, seq_len).

    Prompts are not learned. Packed, examples follow each other until a row is full; padded, each
    row is one example, cut at ``seq_len``, and an attention mask is passed.

    Args:
        examples: At least one.
        tokenizer: Hugging Face's, with an end-of-sequence token.
        plan: Tells the shape and whether rows are padded.
        device: Where the batches go.

    Raises:
        InputError: No example fits its prompt into ``seq_len``.
    """
    tokens = [_tokens(example, tokenizer) for example in examples]
    if plan.padded:
        tokens = [(ids, labels) for ids, labels in tokens if _is_learned(labels, plan.seq_len)]
    if not tokens:
        what = f"every prompt is longer than {plan.seq_len} tokens: nothing is left to learn"
        raise InputError(Problem("seq_len", what, fix="raise seq_len, or shorten the prompts"))
    rows = _padded(tokens, plan.seq_len) if plan.padded else _packed(tokens, plan.seq_len)
    while True:
        chosen = list(itertools.islice(rows, plan.micro_batch_size))
        columns = [torch.tensor(column, device=device) for column in zip(*chosen, strict=True)]
        names = ("input_ids", "labels", "attention_mask")
        batch: Batch = dict(zip(names, columns, strict=False))
        if bool((batch["labels"] != IGNORED).any()):
            yield batch


def _tokens(example: Example, tokenizer: Any) -> tuple[list[int], list[int]]:
    prompt = tokenizer(example.prompt, add_special_tokens=False)["input_ids"]
    completion = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id is not None:
        completion = [*completion, tokenizer.eos_token_id]
    return prompt + completion, [IGNORED] * len(prompt) + completion


def _is_learned(labels: list[int], seq_len: int) -> bool:
    """Whether a row of this length would hold any of the completion."""
    return any(label != IGNORED for label in labels[:seq_len])


def _packed(
    tokens: list[tuple[list[int], list[int]]], seq_len: int
) -> Iterator[tuple[list[int], list[int]]]:
    stream = zip(
        itertools.cycle(_flat(ids for ids, _ in tokens)),
        itertools.cycle(_flat(labels for _, labels in tokens)),
        strict=True,
    )
    while True:
        ids, labels = zip(*itertools.islice(stream, seq_len), strict=True)
        yield list(ids), list(labels)


def _flat(lists: Iterable[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


def _padded(
    tokens: list[tuple[list[int], list[int]]], seq_len: int
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    for ids, labels in itertools.cycle(tokens):
        missing = max(0, seq_len - len(ids))
        yield (
            ids[:seq_len] + [0] * missing,
            labels[:seq_len] + [IGNORED] * missing,
            [1] * (seq_len - missing) + [0] * missing,
        )


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
