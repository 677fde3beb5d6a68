"""Watches training steps through a recorder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from estimator.estimate import Component, Phase
from estimator.plan import FineTunePlan
from trainer.build import Training
from trainer.recorder import StorageRecorder
from trainer.step import Batch, StepHooks, training_step


def parameter_component(parameter: torch.nn.Parameter, plan: FineTunePlan) -> Component:
    """Return whether a parameter belongs to the model or to the adapter on it."""
    return "adapters" if plan.uses_adapter and parameter.requires_grad else "weights"


def observed_steps(
    training: Training,
    batches: Iterator[Batch],
    recorder: StorageRecorder,
    *,
    on_cuda: bool,
    on_phase: Callable[[Phase], None] = lambda _: None,
) -> Iterator[torch.Tensor]:
    """Take two steps under a recorder and yield their losses.

    Two steps are enough: the optimizer's state first exists in the second. Of a longer gradient
    accumulation the second step takes two micro-steps: from the second on, gradients stay alive
    throughout. The first step takes one, because all it has to do is make the state.

    Args:
        training: Model, trained parameters and optimizer; the model's tensors are claimed.
        batches: Yields micro-batches.
        recorder: Active while this runs.
        on_cuda: See :func:`trainer.step.training_step`.
        on_phase: Told of every phase that begins.
    """

    def begin(phase: Phase) -> None:
        recorder.mark(phase)
        on_phase(phase)

    hooks = StepHooks(
        on_phase=begin,
        on_inputs=lambda batch: recorder.claim(batch.values(), "activations"),
        on_outputs=recorder.note_outputs,
        on_saved=lambda tensor: recorder.claim_saved(tensor, "activations"),
    )
    handles = [
        parameter.register_post_accumulate_grad_hook(
            lambda owner: recorder.claim([owner.grad], "gradients")
        )
        for parameter in training.parameters
    ]
    for num_micro_steps in (1, training.plan.micro_steps_taken):
        loss = training_step(
            training, batches, num_micro_steps=num_micro_steps, on_cuda=on_cuda, hooks=hooks
        )
        for state in training.optimizer.state.values():
            tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
            recorder.claim(tensors, "optimizer_states")
        yield loss
    for handle in handles:
        handle.remove()
