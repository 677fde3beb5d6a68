"""The loss without the logits: cross-entropy read from the last hidden states, chunk by chunk.

The default loss holds a number for every token and every word of the vocabulary, several times
over. ``chunked`` and ``liger`` hold one chunk of tokens at a time. Both take the model's own
forward pass, in which the head hands its input on and the loss function does the head's work; so
adapters, quantised layers, virtual tokens and auxiliary losses stay what they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch user knows
from torch.utils.checkpoint import checkpoint

from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer.untyped import peft

IGNORED = -100
"""The label of a token that is not learned from."""

CHUNK_TOKENS = 256
"""Tokens whose logits ``chunked`` holds at a time: TRL's own (``chunk_size`` of its ``chunked_nll``
loss, trl/trainer/sft_trainer.py)."""

_SCALINGS = ("MulBackward0", "DivBackward0", "ToCopyBackward0")
"""What a model may do with its logits that is the same done to hidden states: Cohere's and
Granite's factors, and a cast."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def take_loss_in_chunks(model: Any, plan: FineTunePlan) -> None:
    """Make a prepared model return the plan's ``chunked`` or ``liger`` loss, and no logits.

    The outputs' ``logits`` are the last hidden states from then on.

    Args:
        model: Made ready to train, its adapter added.
        plan: Names the loss.

    Raises:
        InputError: The model's head or what it does with its logits does not allow it; what a
            model does is only seen when it runs, so its forward pass may raise this too.
    """
    base = model.get_base_model() if plan.uses_adapter else model
    head = base.get_output_embeddings()
    if head is None:
        raise InputError(_refused(plan, f"{type(base).__name__} names no head"))
    cap = getattr(base.config, "final_logit_softcapping", None)
    loss = _chunked(head.forward, cap, plan) if plan.loss == "chunked" else _liger(head, cap, plan)
    plain_forward = base.forward

    @functools.wraps(plain_forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        handed: list[torch.Tensor] = []

        def hand_on(hidden: torch.Tensor) -> torch.Tensor:
            handed.append(hidden)
            return hidden

        def loss_function(logits: torch.Tensor, labels: torch.Tensor, *_: Any, **__: Any) -> Any:
            if len(handed) != 1 or not _is_scaled(logits, handed.pop()):
                what = f"{type(base).__name__} does more with its logits than scale or cap them"
                raise InputError(_refused(plan, what))
            return loss(logits.flatten(0, 1), _next_tokens(labels))

        with (
            mock.patch.object(head, "forward", hand_on),
            mock.patch.object(base, "_loss_function", loss_function, create=True),
            mock.patch.object(base.config, "final_logit_softcapping", None, create=True),
        ):
            outputs = plain_forward(*args, **kwargs)
        if handed:
            what = f"{type(base).__name__} computes its loss where it cannot be replaced"
            raise InputError(_refused(plan, what))
        return outputs

    base.forward = forward


def _refused(plan: FineTunePlan, what: str, fix: str = "set loss: default") -> Problem:
    return Problem("loss", f"{plan.loss} does not suit this model: {what}", fix=fix)


def _is_scaled(logits: torch.Tensor, hidden: torch.Tensor) -> bool:
    """Whether ``logits`` are the hidden states handed on, at most multiplied by a number."""
    if logits is hidden:
        return True
    node = logits.grad_fn
    while node is not None and node is not hidden.grad_fn and node.name() in _SCALINGS:
        node = node.next_functions[0][0]
    return node is not None and node is hidden.grad_fn


def _next_tokens(labels: torch.Tensor) -> torch.Tensor:
    """Return for each token of (batch, length) the one to be predicted from it, flattened."""
    return F.pad(labels, (0, 1), value=IGNORED)[..., 1:].flatten()


def _chunked(
    head: Callable[[torch.Tensor], torch.Tensor], cap: float | None, plan: FineTunePlan
) -> Loss:
    """The head and the loss of one chunk after the other, both done again in backward."""
    is_random = plan.adapter.dropout > 0  # of an adapter on the head: the same drops again
    again = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=is_random)

    def of_chunk(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = head(hidden)
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")

    def loss(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        chunks = zip(hidden.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True)
        sums: list[Any] = [again(of_chunk, *chunk) for chunk in chunks]
        return torch.stack(sums).sum() / (targets != IGNORED).sum()

    return loss


def _liger(head: Any, cap: float | None, plan: FineTunePlan) -> Loss:
    """The head and the loss of one chunk after the other, gradients computed on the way."""
    linear = head
    if isinstance(head, peft.utils.ModulesToSaveWrapper):
        linear = head.modules_to_save[head.active_adapters[0]]
    if type(linear) is not torch.nn.Linear:
        what = f"its head is a {type(linear).__module__}.{type(linear).__name__}, not a plain one"
        raise InputError(_refused(plan, what, "set loss: chunked"))

    def loss(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        result: Any = _FusedLinearCrossEntropy.apply(
            hidden, linear.weight, linear.bias, targets, cap
        )
        return result

    return loss


def liger_chunk_tokens(num_tokens: int, hidden_size: int, vocab_size: int) -> int:
    """Return how many tokens' logits Liger-Kernel holds at a time.

    So many that a chunk of logits takes about what the hidden states of all tokens take. Source:
    ``fused_linear_cross_entropy_forward`` in linkedin/Liger-Kernel,
    src/liger_kernel/ops/fused_linear_cross_entropy.py.
    """
    num_chunks = -(-vocab_size // hidden_size)
    tokens = -(-num_tokens // num_chunks)
    return min(1 << (tokens - 1).bit_length(), num_tokens)


class _FusedLinearCrossEntropy(torch.autograd.Function):
    """Liger-Kernel's fused linear cross-entropy, in plain PyTorch.

    Forward computes each chunk's logits, turns them in place into their gradient, and from that
    the gradients of the hidden states and, where it is trained, of the head, in their own types;
    backward multiplies what is there. Like Liger-Kernel it reuses one chunk of logits where no
    autocast comes between. Known differences in memory: a head in 32 bits under autocast adds up
    its gradient through one 16-bit temporary of the head's size (Liger-Kernel takes none from
    compute capability 8.0 on, and a 32-bit one before), and a soft cap takes a second chunk of
    logits (Liger-Kernel computes it in registers).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        cap: float | None,
    ) -> torch.Tensor:
        num_tokens, hidden_size = hidden.shape
        size = liger_chunk_tokens(num_tokens, hidden_size, weight.shape[0])
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        losses = torch.zeros(num_tokens, dtype=torch.float32, device=hidden.device)
        share = 1 / (targets != IGNORED).sum()
        storage = _logits_storage(hidden, weight, size)
        for start in range(0, num_tokens, size):
            rows = slice(start, start + size)
            chunk = hidden[rows]
            if storage is None:
                logits = chunk @ weight.t()
            else:
                logits = storage[: chunk.shape[0]]
                torch.mm(chunk, weight.t(), out=logits)
            if bias is not None:
                logits += bias
            losses[rows] = _turn_into_gradient(logits, targets[rows], share, cap)
            if storage is None:
                grad_hidden[rows] = logits @ weight
            else:
                torch.mm(logits, weight, out=grad_hidden[rows])
            if grad_weight is not None:
                _add_product(grad_weight, logits, chunk)
            if grad_bias is not None:
                grad_bias += logits.sum(dim=0)
            del logits
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        scaled = [None if one is None else one.mul_(grads[0]) for one in ctx.saved_tensors]
        return (*scaled, None, None)


def _logits_storage(hidden: torch.Tensor, weight: torch.Tensor, size: int) -> torch.Tensor | None:
    """Return what every chunk's logits are written into, None where autocast makes them anew."""
    device_type = hidden.device.type
    dtype = hidden.dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    if not hidden.dtype == weight.dtype == dtype:
        return None
    return torch.empty(size, weight.shape[0], dtype=dtype, device=hidden.device)


def _turn_into_gradient(
    logits: torch.Tensor, targets: torch.Tensor, share: torch.Tensor, cap: float | None
) -> torch.Tensor:
    """Replace a chunk's logits by their gradient and return its tokens' shares of the loss.

    The logarithm of the sum comes from the greatest logit and its probability, so that nothing
    as large as the logits is needed; in 16 bits that rounds a token's loss by 0.004 at most.
    """
    slope = None
    if cap is not None:
        logits.div_(cap).tanh_()
        slope = 1 - logits.square()
        logits.mul_(cap)
    learned = targets != IGNORED
    index = targets.clamp(min=0).unsqueeze(1)
    greatest = logits.amax(dim=1).float()
    wanted = logits.gather(1, index).squeeze(1).float()
    torch.softmax(logits, dim=1, out=logits)
    losses = greatest - logits.amax(dim=1).float().log() - wanted
    logits.scatter_add_(1, index, logits.new_full(index.shape, -1.0))
    weights = torch.where(learned, share, 0.0)
    logits.mul_(weights.unsqueeze(1))
    if slope is not None:
        logits.mul_(slope)
    return torch.where(learned, losses * share, 0.0)


def _add_product(total: torch.Tensor, logits: torch.Tensor, hidden: torch.Tensor) -> None:
    """Add a chunk's gradient to the head's."""
    if total.dtype == logits.dtype:
        total.addmm_(logits.t(), hidden.to(logits.dtype))
    else:
        total += logits.t() @ hidden
