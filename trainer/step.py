"""One training step: the only place one is taken, by the dry run and by the probe alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from estimator.estimate import Phase
from estimator.plan import FineTunePlan
from trainer.build import Training
from trainer.skeleton import DTYPES

Batch = dict[str, torch.Tensor]


def _ignore(_: Any) -> None:
    return None


@dataclass(slots=True)
class StepHooks:
    """What an observer of a step is told; every hook does nothing by default."""

    on_phase: Callable[[Phase], None] = _ignore
    on_inputs: Callable[[Batch], None] = _ignore
    on_outputs: Callable[[list[torch.Tensor]], None] = _ignore
    on_saved: Callable[[torch.Tensor], None] | None = None
    on_gradients: Callable[[torch.nn.Parameter], None] = _ignore


def training_step(
    training: Training,
    batches: Iterator[Batch],
    *,
    num_micro_steps: int,
    on_cuda: bool,
    hooks: StepHooks,
) -> torch.Tensor:
    """Take one optimizer step and return its mean loss (a scalar, detached).

    The order is Hugging Face Trainer's: forward and loss under autocast, the model's outputs let
    go of (``keep_outputs`` holds them to the step's end), backward, and after the last
    micro-batch clipping, the optimizer and the gradients' release. One thing is not as there: fp16
    autocast takes no gradient scaler. It would add a few scalars (scale, growth tracker, and one
    ``found_inf`` a device): ``torch.amp.GradScaler`` unscales gradients in place, and looks for
    infinities in the same kernel (``_amp_foreach_non_finite_check_and_unscale_``).

    Args:
        training: Model, trained parameters and optimizer.
        batches: Yields ``input_ids`` and ``labels``, with ``attention_mask`` where padded, all
            of shape (micro_batch_size, seq_len).
        num_micro_steps: How many micro-batches are accumulated, at least one.
        on_cuda: Whether to clip as CUDA does, with the foreach kernels.
        hooks: Who looks on.
    """
    kept: list[Any] = []  # a hand-written loop's outputs live until the next ones are there
    losses = [
        _micro_step(training, batches, num_micro_steps, hooks, kept) for _ in range(num_micro_steps)
    ]
    hooks.on_phase("optimizer")
    limit = training.plan.max_grad_norm
    if limit:
        torch.nn.utils.clip_grad_norm_(training.parameters, limit, foreach=on_cuda or None)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    return torch.stack(losses).sum()


def _micro_step(
    training: Training,
    batches: Iterator[Batch],
    num_micro_steps: int,
    hooks: StepHooks,
    kept: list[Any],
) -> torch.Tensor:
    plan = training.plan
    hooks.on_phase("forward")
    batch = next(batches)
    hooks.on_inputs(batch)
    with _saved_tensors(hooks), autocast(plan, batch["input_ids"].device):
        outputs = training.model(**batch, use_cache=False)
        loss = outputs.loss / num_micro_steps
    if plan.keep_outputs:
        kept[:] = [outputs]
        hooks.on_outputs([one for one in outputs.values() if isinstance(one, torch.Tensor)])
    del outputs
    hooks.on_phase("backward")
    loss.backward()
    return loss.detach()


def _saved_tensors(hooks: StepHooks) -> contextlib.AbstractContextManager[Any]:
    on_saved = hooks.on_saved
    if on_saved is None:
        return contextlib.nullcontext()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        on_saved(tensor)
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def autocast(plan: FineTunePlan, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast in which the plan's forward passes run, none where it has none."""
    if plan.autocast_dtype == "none":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[plan.autocast_dtype])
