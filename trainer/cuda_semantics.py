"""Makes a step that is traced on fake CPU tensors allocate what it would allocate on CUDA.

Each patch is one place where the CPU's path and CUDA's differ in memory, checked against the
sources of torch 2.13, transformers 5.23 and bitsandbytes 0.50; :mod:`trainer.cuda_attention`,
:mod:`trainer.cuda_kernels` and :mod:`trainer.cuda_autocast` hold what is put in place. What is
replaced is put back when the context ends.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch user knows
from transformers import masking_utils
from transformers.integrations import moe

from estimator.gpu_facts import has_grouped_mm
from estimator.plan import FineTunePlan
from trainer.cuda_attention import Attention
from trainer.cuda_autocast import cuda_autocast
from trainer.cuda_kernels import KernelTemporaries, Softmax, dropout, matmul_8_bit
from trainer.untyped import bnb

_PAGED_FROM_ELEMENTS = 100_000  # bitsandbytes pages states of at least this size


@contextlib.contextmanager
def fake_tensor_semantics(forget: Callable[[torch.Tensor], None] | None) -> Iterator[None]:
    """What fake tensors need whatever the device: they have no values to look at.

    transformers looks at position ids for packed sequences, and under tracing always builds a
    mask; the 8-bit optimizers fill a table of 256 values.

    Args:
        forget: Called with what a CUDA device keeps outside the caching allocator (the states of
            a paged optimizer lie in managed memory); None where no CUDA device is pretended.
    """
    optimizer_class = bnb.optim.optimizer.Optimizer8bit

    def fill_with_fakes(optimizer: Any) -> None:
        for name in ("dynamic", "udynamic"):
            optimizer.name2qmap[name] = torch.empty(256)

    def state_buffer(
        optimizer: Any, parameter: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        buffer = torch.zeros_like(parameter, dtype=dtype)
        if forget and optimizer.is_paged and parameter.numel() >= _PAGED_FROM_ELEMENTS:
            forget(buffer)
        return buffer

    with (
        mock.patch.object(masking_utils, "find_packed_sequence_indices", _no_packed_sequences),
        mock.patch.object(optimizer_class, "fill_qmap", fill_with_fakes),
        mock.patch.object(optimizer_class, "get_state_buffer", state_buffer),
    ):
        yield


def _no_packed_sequences(*_: Any) -> None:
    """A function, because a mock would keep the tensors that it is called with."""


class AnotherPath(RuntimeError):
    """The traced step did not take the path that is known, so its numbers mean nothing."""


class CudaSemantics:
    """The context in which CPU tracing takes CUDA's paths."""

    def __init__(self, plan: FineTunePlan, on_multiply: Callable[[], None]) -> None:
        """Describe the differences for a plan.

        Args:
            plan: Its GPU and attention decide which kernels run.
            on_multiply: Told of every matrix product, when its result is there.
        """
        self.plan = plan
        self._on_multiply = on_multiply
        self._attention = Attention(plan)
        self._softmax = Softmax()

    @property
    def attention_calls(self) -> Counter[str]:
        """How often each attention kernel was called, recomputation included."""
        return self._attention.calls

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Replace what differs; functions are patched because modes are off during backward."""
        has_kernel = has_grouped_mm(self.plan.gpu_spec)

        def can_use_grouped_mm(*_: Any) -> bool:  # a mock would keep the tensors it is given
            return has_kernel

        with (
            mock.patch.object(F, "scaled_dot_product_attention", self._attention),
            mock.patch.object(F, "dropout", dropout),
            mock.patch.object(F, "softmax", self._softmax),
            mock.patch.object(bnb, "matmul", matmul_8_bit),
            mock.patch.object(torch, "is_autocast_enabled", _is_autocast_enabled),
            mock.patch.object(moe, "_can_use_grouped_mm", can_use_grouped_mm),
            cuda_autocast(),
            KernelTemporaries(self.plan.gpu_spec, self._on_multiply),
        ):
            yield

    def verify(self, model: Any, num_micro_steps: int) -> None:
        """Check that every attention layer called its kernel as often as the step needs it.

        Checkpointing computes every layer again: transformers lets gradients flow to the
        embeddings, past frozen layers too. Of eager attention the softmax is counted, of which
        experts' routers may take more.

        Args:
            model: What was traced.
            num_micro_steps: How many forward and backward passes were traced, in all.

        Raises:
            AnotherPath: The counts differ: a library's update took another path.
        """
        layers = len(attention_layers(model))
        passes = 2 if self.plan.gradient_checkpointing else 1  # forward, and again in backward
        expected = layers * passes * num_micro_steps
        fused = sum(self.attention_calls.values())
        is_eager = model.config.get_text_config()._attn_implementation == "eager"
        if self._softmax.calls >= expected and fused == 0 if is_eager else fused == expected:
            return
        libraries = " or ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
        counted = f"{self._softmax.calls} softmax" if is_eager else f"{fused} attention kernel"
        raise AnotherPath(
            f"{counted} calls were traced where {layers} attention layers make {expected} in "
            f"{num_micro_steps} micro-steps: a library update ({libraries}) took a path that the "
            "dry run does not know"
        )


def attention_layers(model: torch.nn.Module) -> list[str]:
    """Return the names of the modules that attend by softmax.

    Linear attention and state spaces are not among them. transformers calls the modules
    ``...Attention`` and gives each its layer's index.
    """
    return [
        name
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Attention") and hasattr(module, "layer_idx")
    ]


_plain_is_autocast_enabled = torch.is_autocast_enabled


def _is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Asked without a device, as peft asks before it casts an adapter's input, CUDA is meant."""
    return _plain_is_autocast_enabled(device_type)
