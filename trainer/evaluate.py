"""What a model can do at one moment: losses, answers to references, and general text."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch user knows

from estimator.plan import FineTunePlan
from trainer.chat_template import TemplateProblem
from trainer.evaluation_results import Evaluation, Piece, Sample
from trainer.example_formats import Example
from trainer.generate import generate, prompt_tokens
from trainer.losses import IGNORED
from trainer.step import autocast
from trainer.text_scores import is_exact, rouge_l

MAX_NEW_TOKENS = 256
"""How much an answer may take at most, however long its reference is."""

ROOM_AFTER_REFERENCE_TOKENS = 32
"""How much longer than its reference an answer may grow; one that goes on has missed it."""

_PIECE_TOKENS = 16
_MAX_PIECES = 2000  # what a file of results should hold; beyond it neighbours are put together


class Rows(Protocol):
    """Rows of ``input_ids`` and ``labels``: a list, or a map-style dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class TextLoss:
    """How well a model foretells a text: mean loss in nats, None where it is no finite number."""

    loss: float | None
    num_tokens: int
    pieces: tuple[Piece, ...]

    @property
    def perplexity(self) -> float | None:
        """The exponential of the loss; None where that is beyond all numbers."""
        try:
            return None if self.loss is None else math.exp(self.loss)
        except OverflowError:
            return None

    @property
    def is_broken(self) -> bool:
        """Whether there are tokens, and no finite loss."""
        return self.num_tokens > 0 and self.loss is None


def evaluate(
    model: Any,
    tokenizer: Any,
    validation_rows: Rows,
    references: Sequence[Example],
    plan: FineTunePlan,
    device: torch.device,
    *,
    seed: int,
    max_references: int = 20,
    without_adapter: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Return what a model can do now, and leave it exactly as it was.

    Losses are taken in evaluation mode under the plan's autocast, weighted by tokens, in
    micro-batches of the plan. Answers are greedy, so that before and after differ by the model.

    Args:
        model: As trained, or about to be; on its device.
        tokenizer: Hugging Face's.
        validation_rows: Rows of ``input_ids`` and ``labels``; none: no validation loss.
        references: Examples to answer; those without a prompt, or whose prompt does not fit into
            the plan's ``seq_len``, are passed over.
        plan: Tells autocast, micro-batch, ``seq_len`` and loss.
        device: Where the model is.
        seed: For whatever draws random numbers on the way.
        max_references: How many references are answered at most.
        without_adapter: Evaluate the base model. Before a fine-tune this is what prompt and
            prefix tuning need, whose adapters begin at random.
        on_progress: Told what is being done, in words for people.
    """
    tell = on_progress or (lambda _: None)
    started = time.perf_counter()
    with _undisturbed(model, plan, device, seed, without_adapter):
        tell("validation loss")
        validation = text_loss(model, validation_rows, plan, device)
        tell("general text")
        general = text_loss(model, general_rows(tokenizer, plan.seq_len), plan, device)
        chosen = itertools.islice(_answerable(references, tokenizer, plan), max_references)
        samples = []
        for number, (example, prompt) in enumerate(chosen, start=1):
            tell(f"answer {number}")
            samples.append(_answer(model, tokenizer, example, prompt, plan, device))
    return Evaluation(
        validation_loss=validation.loss,
        perplexity=validation.perplexity,
        num_validation_tokens=validation.num_tokens,
        validation_pieces=validation.pieces,
        exact_match=_mean([sample.exact for sample in samples]),
        exact_match_strict=_mean([sample.exact_strict for sample in samples]),
        rouge_l=_mean([sample.rouge_l for sample in samples]),
        num_references=len(samples),
        samples=tuple(samples),
        general_loss=general.loss,
        general_perplexity=general.perplexity,
        num_general_tokens=general.num_tokens,
        general_pieces=general.pieces,
        is_broken=validation.is_broken or general.is_broken,
        seconds=time.perf_counter() - started,
        seed=seed,
    )


def held_out_loss(model: Any, rows: Rows, plan: FineTunePlan, device: torch.device) -> float | None:
    """Return the validation loss of a model in training, and leave it exactly as it was."""
    with _undisturbed(model, plan, device, plan.schedule.seed, without_adapter=False):
        return text_loss(model, rows, plan, device).loss


@contextlib.contextmanager
def _undisturbed(
    model: Any, plan: FineTunePlan, device: torch.device, seed: int, without_adapter: bool
) -> Iterator[None]:
    """Evaluation mode, no gradients, real logits; afterwards all is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [device] if device.type == "cuda" else []
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        if plan.loss != "default":
            # The loss in chunks took the place of the model's own forward pass, which has logits.
            base = model.get_base_model() if plan.uses_adapter else model
            plain = base.forward.__wrapped__
            stack.enter_context(mock.patch.object(base, "forward", plain))
        if without_adapter and plan.uses_adapter:
            stack.enter_context(model.disable_adapter())
        torch.manual_seed(seed)
        model.eval()
        try:
            yield
        finally:
            for module, was_training in modes:
                module.training = was_training


def text_loss(model: Any, rows: Rows, plan: FineTunePlan, device: torch.device) -> TextLoss:
    """Return the loss of the learned tokens of rows, in the state that the model is in.

    Rows of a micro-batch are filled up at their ends, which changes nothing before: attention
    looks back only.
    """
    # Whole logits are what a plan with another loss has no memory for: one row at a time then.
    size = plan.micro_batch_size if plan.loss == "default" else 1
    pieces: list[Piece] = []
    with torch.no_grad(), autocast(plan, device):
        for start in range(0, len(rows), size):
            batch = [rows[index] for index in range(start, min(start + size, len(rows)))]
            for losses, places in _token_losses(model, batch, device):
                pieces += _pieces(losses, places)
    num_tokens = sum(piece.num_tokens for piece in pieces)
    total = math.fsum(piece.loss for piece in pieces) if _all_finite(pieces) else math.nan
    if not num_tokens or not math.isfinite(total):
        return TextLoss(None, num_tokens, ())
    return TextLoss(total / num_tokens, num_tokens, tuple(_merged(pieces)))


def _all_finite(pieces: list[Piece]) -> bool:
    return all(math.isfinite(piece.loss) for piece in pieces)


def _token_losses(
    model: Any, batch: list[Any], device: torch.device
) -> Iterator[tuple[list[float], list[int]]]:
    """Yield for each row its learned tokens' losses, and where in the row they are."""
    ids = [torch.as_tensor(row["input_ids"], dtype=torch.long) for row in batch]
    labels = [torch.as_tensor(row["labels"], dtype=torch.long) for row in batch]
    filled = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
    logits = model(input_ids=filled, use_cache=False).logits
    logits = logits[:, -filled.shape[1] :]  # prompt tuning puts its virtual tokens in front
    for row, wanted in enumerate(labels):
        targets = wanted[1:].to(device)
        places = (targets != IGNORED).nonzero().flatten()
        foretold = logits[row, : len(targets)][places].float()
        losses = F.cross_entropy(foretold, targets[places], reduction="none")
        yield losses.tolist(), places.tolist()


def _pieces(losses: list[float], places: list[int]) -> Iterator[Piece]:
    """Cut a row's losses where learned tokens stop, and in any case after some tokens.

    Neighbouring tokens are surprising together; pieces of several are nearly independent.
    """
    run: list[float] = []
    last = None
    for loss, place in zip(losses, places, strict=True):
        if run and (place - 1 != last or len(run) == _PIECE_TOKENS):
            yield Piece(loss=math.fsum(run), num_tokens=len(run))
            run = []
        run.append(loss)
        last = place
    if run:
        yield Piece(loss=math.fsum(run), num_tokens=len(run))


def _merged(pieces: list[Piece]) -> Iterator[Piece]:
    size = -(-len(pieces) // _MAX_PIECES)
    for start in range(0, len(pieces), size):
        group = pieces[start : start + size]
        loss = math.fsum(piece.loss for piece in group)
        yield Piece(loss=loss, num_tokens=sum(piece.num_tokens for piece in group))


def general_passages() -> list[str]:
    """Return the bundled passages of everyday English."""
    text = (files("trainer") / "data" / "general_text.txt").read_text(encoding="utf-8")
    return [passage.strip() for passage in text.split("\n----\n")[1:]]  # the first is its origin


def general_rows(tokenizer: Any, longest: int) -> list[dict[str, list[int]]]:
    """Return the general passages as rows of at most ``longest`` tokens, all of them learned."""
    rows = []
    for passage in general_passages():
        ids = tokenizer(passage)["input_ids"]
        parts = (ids[start : start + longest] for start in range(0, len(ids), longest))
        rows += [{"input_ids": part, "labels": part} for part in parts if len(part) > 1]
    return rows


def _answerable(
    references: Sequence[Example], tokenizer: Any, plan: FineTunePlan
) -> Iterator[tuple[Example, list[int]]]:
    for example in references:
        if not example.prompt.strip() and not example.turns:
            continue
        try:
            prompt = prompt_tokens(tokenizer, example)
        except TemplateProblem:
            continue
        if 0 < len(prompt) <= plan.seq_len:
            yield example, prompt


def _answer(
    model: Any,
    tokenizer: Any,
    example: Example,
    prompt: list[int],
    plan: FineTunePlan,
    device: torch.device,
) -> Sample:
    reference = (example.turns[-1].content if example.turns else example.completion).strip()
    wanted = tokenizer(reference, add_special_tokens=False)["input_ids"]
    room = min(MAX_NEW_TOKENS, len(wanted) + ROOM_AFTER_REFERENCE_TOKENS)
    with autocast(plan, device):
        answer = generate(model, tokenizer, prompt, max_new_tokens=room)
    return Sample(
        prompt=_readable_prompt(example),
        reference=reference,
        output=answer.text,
        output_was_cut=answer.was_cut,
        exact=is_exact(answer.text, reference),
        exact_strict=answer.text == reference,
        rouge_l=rouge_l(answer.text, reference),
    )


def _readable_prompt(example: Example) -> str:
    given = example.turns[:-1]
    if len(given) == 1:
        return given[0].content
    if given:
        return "\n".join(f"{turn.role}: {turn.content}" for turn in given)
    return example.prompt.strip()


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
