"""Makes a real step on CUDA take the attention kernel that its plan asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.integrations import sdpa_attention

from estimator.plan import FineTunePlan

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@contextlib.contextmanager
def chosen_attention(plan: FineTunePlan, device: torch.device) -> Iterator[None]:
    """Fix the kernel of scaled_dot_product_attention where the plan does; PyTorch chooses else.

    The memory-efficient kernel refuses fewer key heads than query heads, so keys and values are
    expanded for it. On a CPU there is nothing to choose.
    """
    wanted = "flash" if plan.attention == "flash_attention_2" else plan.attention_backend
    if device.type != "cuda" or wanted == "auto":
        yield
        return
    with contextlib.ExitStack() as fixed:
        fixed.enter_context(sdpa_kernel(_BACKENDS[wanted]))
        if wanted == "efficient":
            expanded = mock.patch.object(sdpa_attention, "use_gqa_in_sdpa", _expand)
            fixed.enter_context(expanded)
        yield


def _expand(*_: Any) -> bool:
    """A function, because a mock would keep every key and value that it is called with."""
    return False
