"""What a reader of an estimate has to be told about the model that was traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch

from estimator.plan import FineTunePlan
from trainer.skeleton import quantized_linears

_BILLION = 10**9
_FUSED_DIMENSIONS = 3  # experts x rows x columns
_PACKAGES = {"GatedDeltaNet": "flash-linear-attention", "Mamba2Mixer": "mamba-ssm"}


def model_notes(model: torch.nn.Module, plan: FineTunePlan) -> Iterator[str]:
    """Yield a sentence for each thing about a model that its estimate rests on.

    Args:
        model: Ready to train.
        plan: What is trained.
    """
    if sentence := unquantised_sentence(model, plan):
        yield sentence
    names = {type(module).__name__ for module in model.modules()}
    for ending, package in _PACKAGES.items():
        if any(name.endswith(ending) for name in names):
            yield (
                "Layers without softmax attention are read with PyTorch's own code; where "
                f"{package} and causal-conv1d are installed they take other kernels."
            )
    if "GptOssExperts" in names:
        yield (
            "gpt-oss is published in MXFP4; it is read as its 16-bit weights, which is what "
            "Mxfp4Config(dequantize=True) loads."
        )


def unquantised_sentence(model: torch.nn.Module, plan: FineTunePlan) -> str | None:
    """Return how much of a model stays as it was where the plan quantises, None where it does not.

    Args:
        model: Ready to train; what is trained is not counted.
        plan: Whether and how the frozen weights are quantised.
    """
    if not plan.is_quantized:
        return None
    kinds: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not parameter.requires_grad:
            kinds[_kind_of(name, parameter)] += parameter.numel()
    total = sum(kinds.values())
    stored = (
        "32 bits, as k-bit preparation makes them" if plan.prepares_kbit else plan.weights_dtype
    )
    if not quantized_linears(model):
        return (
            "Nothing of this model is quantised, for it has no layer that bitsandbytes replaces: "
            f"{_count(total)} parameters stay in {stored}."
        )
    large = [f"{kind} {_count(size)}" for kind, size in kinds.most_common() if size > total // 100]
    return (
        f"{_count(total)} parameters are not quantised and stay in {stored} ({', '.join(large)}): "
        "bitsandbytes replaces plain linear layers alone."
    )


def _count(parameters: int) -> str:
    if parameters < _BILLION:
        return f"{parameters / 10**6:,.1f} M"
    return f"{parameters / _BILLION:,.2f} B"


def _kind_of(name: str, parameter: torch.Tensor) -> str:
    if parameter.dim() == _FUSED_DIMENSIONS and "conv" not in name:
        return "fused experts"
    if "lm_head" in name or "embed_out" in name:
        return "lm_head"
    if "embed" in name or ".wte." in name or ".wpe." in name:
        return "embeddings"
    return "norms, biases and the rest"
