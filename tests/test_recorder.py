"""The recorder watches a step, and does not change what it computes."""

from __future__ import annotations

from typing import Any

import torch

from trainer.recorder import StorageRecorder


class Doubled(torch.autograd.Function):
    """Twice its input, with a backward that goes on using what it adds to."""

    @staticmethod
    def forward(_: Any, value: torch.Tensor) -> torch.Tensor:
        return value * 2

    @staticmethod
    def backward(_: Any, *grads: torch.Tensor) -> torch.Tensor:
        half = grads[0] * 1.0
        whole = half + torch.zeros_like(half) + half
        return whole + half - half


def gradient_of(weight: torch.Tensor) -> torch.Tensor:
    value = weight * 3
    (Doubled.apply(value) + value.sin() + value.cos()).sum().backward()
    found = weight.grad
    if found is None:
        raise RuntimeError("there is no gradient")
    return found


def test_gradients_are_those_of_a_step_that_nobody_watches() -> None:
    weight = torch.linspace(0, 1, 4096, requires_grad=True)
    again = weight.detach().clone().requires_grad_()
    recorder = StorageRecorder(vocab_size=0)
    with recorder:
        recorder.mark("backward")
        watched = gradient_of(again)
    torch.testing.assert_close(watched, gradient_of(weight))


def test_gradients_of_one_tensor_are_added_up_in_place() -> None:
    weight = torch.ones(1_000_000, requires_grad=True)
    recorder = StorageRecorder(vocab_size=0)
    with recorder:
        value = weight * 3
        loss = value.sin().sum() + value.cos().sum() + value.tan().sum()
        recorder.mark("backward")
        loss.backward()
    # Four values, and in backward two for each function, one for tan's and one for the product:
    # none for the two sums of the three gradients.
    assert len([size for size in recorder.trace.sizes if size == 4_000_000]) == 13
