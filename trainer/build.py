"""From a plan to a model, its adapter and its optimizer: the only place they are made."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import bitsandbytes as bnb
import peft
import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.optimization import Adafactor

from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer.skeleton import DTYPES

LEARNING_RATE = 1e-4
_CHECKPOINTING = {"use_reentrant": False}


def prepare(base: PreTrainedModel, plan: FineTunePlan) -> Any:
    """Return the model made ready to train: checkpointing, k-bit preparation, adapter, freezing.

    Args:
        base: The model, on any device (meta included), quantised if the plan says so.
        plan: What is trained.

    Returns:
        A model in training mode of which exactly the plan's parameters require gradients.

    Raises:
        InputError: The method does not suit this model, for example a target module it lacks.
    """
    if plan.gradient_checkpointing:
        base.gradient_checkpointing_enable(_CHECKPOINTING)
    if plan.prepares_kbit:
        base = peft.prepare_model_for_kbit_training(
            base,
            use_gradient_checkpointing=plan.gradient_checkpointing,
            gradient_checkpointing_kwargs=_CHECKPOINTING,
        )
    model = _add_adapter(base, plan) if plan.uses_adapter else _unfreeze(base, plan)
    model.train()
    return model


def _add_adapter(base: PreTrainedModel, plan: FineTunePlan) -> Any:
    try:
        model = peft.get_peft_model(base, _peft_config(plan), autocast_adapter_dtype=False)
    except ValueError as error:
        what = f"{plan.adapter.target_modules} ({' '.join(str(error).split())[:160]})"
        fix = "name linear layers of this model, or all-linear"
        raise InputError(Problem("adapter.target_modules", what, fix=fix)) from error
    dtype = DTYPES[plan.adapter.dtype]
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return model


def _peft_config(plan: FineTunePlan) -> peft.PeftConfig:
    adapter = plan.adapter
    targets: Any = adapter.target_modules
    targets = targets if targets == "all-linear" else list(targets)
    common = {"task_type": peft.TaskType.CAUSAL_LM}
    if plan.method in ("lora", "qlora"):
        return peft.LoraConfig(
            r=adapter.r,
            lora_alpha=adapter.alpha,  # pyright: ignore[reportArgumentType]  peft divides it: a float does
            lora_dropout=adapter.dropout,
            target_modules=targets,
            use_dora=adapter.use_dora,
            use_rslora=adapter.use_rslora,
            **common,
        )
    if plan.method == "ia3":
        return peft.IA3Config(**common)
    if plan.method == "prefix_tuning":
        return peft.PrefixTuningConfig(num_virtual_tokens=adapter.num_virtual_tokens, **common)
    return peft.PromptTuningConfig(num_virtual_tokens=adapter.num_virtual_tokens, **common)


def _unfreeze(model: PreTrainedModel, plan: FineTunePlan) -> PreTrainedModel:
    if plan.method == "full":
        return model
    names = [name for name, _ in model.named_parameters()]
    trained = set(_biases(names) if plan.method == "bitfit" else _last_layers(names, plan))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model


def _biases(names: list[str]) -> Iterable[str]:
    biases = [name for name in names if name.endswith(".bias")]
    if not biases:
        what = "bitfit trains biases, and this model has none"
        raise InputError(Problem("method", what, fix="use lora, or a model with biases"))
    return biases


def _last_layers(names: list[str], plan: FineTunePlan) -> Iterable[str]:
    """The parameters of the last decoder layers (embeddings, final norm and head stay frozen)."""
    layer_of = {name: match for name in names if (match := re.search(r"\.(\d+)\.", name))}
    num_layers = 1 + max(int(match[1]) for match in layer_of.values())
    if plan.num_trained_layers > num_layers:
        what = f"{plan.num_trained_layers} is more than the model's {num_layers} layers"
        raise InputError(Problem("num_trained_layers", what, f"1 to {num_layers}"))
    first = num_layers - plan.num_trained_layers
    return [name for name, match in layer_of.items() if int(match[1]) >= first]


def trained_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the parameters that get gradients, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def build_optimizer(
    plan: FineTunePlan, parameters: list[torch.nn.Parameter], *, on_cuda: bool
) -> torch.optim.Optimizer:
    """Return the plan's optimizer, with the implementation a CUDA device would choose.

    Args:
        plan: Names the optimizer.
        parameters: What it steps.
        on_cuda: Whether the step runs on CUDA or pretends to: there plain ``adamw_torch`` and
            ``sgd`` take their foreach implementation, which needs temporaries; on a CPU the loop.
    """
    rate = {"lr": LEARNING_RATE}
    name = plan.optimizer.removeprefix("paged_")
    paged = name != plan.optimizer
    if name == "adamw_torch":
        return torch.optim.AdamW(parameters, foreach=on_cuda, **rate)
    if name == "adamw_torch_foreach":
        return torch.optim.AdamW(parameters, foreach=True, **rate)
    if name == "adamw_torch_fused":
        return torch.optim.AdamW(parameters, fused=True, **rate)
    if name == "sgd":
        return torch.optim.SGD(parameters, foreach=on_cuda, **rate)
    if name == "adafactor":
        return Adafactor(parameters, scale_parameter=False, relative_step=False, **rate)
    bits = 8 if name.endswith("8bit") else 32
    kind = bnb.optim.Lion if name.startswith("lion") else bnb.optim.AdamW
    return kind(parameters, optim_bits=bits, is_paged=paged, **rate)
