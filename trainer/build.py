"""From a plan to a model, its adapter and its optimizer: the only place they are made."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.optimization import Adafactor

from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer.adapters import add_adapter
from trainer.learning_rates import LEARNING_RATES
from trainer.losses import take_loss_in_chunks
from trainer.not_built import refuse_what_is_not_built
from trainer.untyped import bnb, peft
from trainer.weights import keep_4_bit_layout


@dataclass(frozen=True, slots=True)
class Training:
    """A model ready to train, what is trained of it, and its optimizer."""

    plan: FineTunePlan
    model: Any
    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer


def prepare(base: Any, plan: FineTunePlan) -> Any:
    """Return the model made ready to train: checkpointing, k-bit preparation, adapter, freezing.

    Args:
        base: The model, on any device (meta included), quantised if the plan says so.
        plan: What is trained.

    Returns:
        A model in training mode of which exactly the plan's parameters require gradients.

    Raises:
        InputError: The step is one that is not built yet, or the method does not suit this model,
            for example a target module it lacks.
    """
    refuse_what_is_not_built(plan)
    keep_4_bit_layout(base)
    if plan.gradient_checkpointing:
        variant = {"use_reentrant": plan.checkpointing_reentrant}
        base.activation_checkpointing_enable(activation_checkpointing_kwargs=variant)
    if plan.prepares_kbit:
        base = peft.prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    model = add_adapter(base, plan) if plan.uses_adapter else _unfreeze(base, plan)
    if plan.gradient_checkpointing and plan.checkpointing_reentrant and plan.method != "full":
        # It computes a layer again only if something that goes in requires a gradient.
        base.enable_input_require_grads()
    if plan.loss != "default":
        take_loss_in_chunks(model, plan)
    model.train()
    return model


def _unfreeze(model: Any, plan: FineTunePlan) -> Any:
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
        fix = f"set num_trained_layers to {num_layers} or less"
        raise InputError(Problem("num_trained_layers", what, f"1 to {num_layers}", fix))
    first = num_layers - plan.num_trained_layers
    return [name for name, match in layer_of.items() if int(match[1]) >= first]


def build_training(model: Any, plan: FineTunePlan, *, on_cuda: bool) -> Training:
    """Return the training of a prepared model, with the optimizer that the plan names.

    Args:
        model: As :func:`prepare` returns it, on its device.
        plan: What is trained.
        on_cuda: Whether the step runs on CUDA or pretends to: there plain ``adamw_torch`` and
            ``sgd`` take their foreach implementation, which needs temporaries; on a CPU the loop.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if plan.optimizer.endswith("8bit"):
        _keep_embeddings_in_32_bits(model)
    return Training(plan, model, parameters, _optimizer(plan, parameters, on_cuda))


def _keep_embeddings_in_32_bits(model: Any) -> None:
    """Hugging Face Trainer's rule for 8-bit optimizers; the manager is one for the process."""
    manager = bnb.optim.GlobalOptimManager.get_instance()
    manager.initialize()  # forgets what an earlier training registered, by position
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})


def _optimizer(
    plan: FineTunePlan, parameters: list[torch.nn.Parameter], on_cuda: bool
) -> torch.optim.Optimizer:
    rate = plan.schedule.learning_rate or LEARNING_RATES[plan.method]
    decay = plan.schedule.weight_decay
    name = plan.optimizer.removeprefix("paged_")
    paged = name != plan.optimizer
    if name == "adamw_torch":
        return torch.optim.AdamW(parameters, foreach=on_cuda, lr=rate, weight_decay=decay)
    if name == "adamw_torch_foreach":
        return torch.optim.AdamW(parameters, foreach=True, lr=rate, weight_decay=decay)
    if name == "adamw_torch_fused":
        return torch.optim.AdamW(parameters, fused=True, lr=rate, weight_decay=decay)
    if name == "sgd":
        return torch.optim.SGD(parameters, foreach=on_cuda, lr=rate, weight_decay=decay)
    if name == "adafactor":
        return Adafactor(
            parameters, scale_parameter=False, relative_step=False, lr=rate, weight_decay=decay
        )
    bits = 8 if name.endswith("8bit") else 32
    kind = bnb.optim.Lion if name.startswith("lion") else bnb.optim.AdamW
    return kind(parameters, optim_bits=bits, is_paged=paged, lr=rate, weight_decay=decay)
