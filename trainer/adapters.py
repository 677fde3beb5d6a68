"""The small trained part on a frozen model, as peft adds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer.skeleton import DTYPES
from trainer.untyped import peft

_IA3_TARGETS = peft.utils.constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
_IA3_FEEDFORWARD = peft.utils.constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING


def add_adapter(base: Any, plan: FineTunePlan) -> Any:
    """Return peft's model around ``base``, of which only the plan's adapter is trained.

    The adapter is stored in the plan's type. Modules that are trained whole beside it
    (``modules_to_save``) keep the model's own type, as peft leaves them: the layers that read
    what they put out have that type too.

    Raises:
        InputError: The adapter does not suit the model.
    """
    on_meta = base.device.type == "meta"
    problems = list(_missing_modules(base, plan))
    if on_meta and plan.adapter.use_dora and plan.is_quantized:
        what = "the dry run cannot follow peft's DoRA into quantised weights; a probe can"
        fix = "set use_dora: false, or probe it"
        problems.append(Problem("adapter.use_dora", what, "false", fix))
    if problems:
        raise InputError(problems)
    try:
        model = peft.get_peft_model(
            base,
            _peft_config(base, plan),
            autocast_adapter_dtype=False,
            low_cpu_mem_usage=on_meta,
        )
    except ValueError as error:
        raise InputError(_as_problem(error, plan)) from error
    dtype = DTYPES[plan.adapter.dtype]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".modules_to_save." not in name:
            parameter.data = parameter.data.to(dtype)
    return model


def _as_problem(error: ValueError, plan: FineTunePlan) -> Problem:
    said = " ".join(str(error).split())[:160]
    if plan.method in ("prompt_tuning", "prefix_tuning"):
        return Problem("method", f"peft refuses {plan.method} ({said})", fix="use lora")
    what = f"{plan.adapter.target_modules} ({said})"
    fix = "name linear layers of this model, or all-linear"
    return Problem("adapter.target_modules", what, fix=fix)


def _missing_modules(base: torch.nn.Module, plan: FineTunePlan) -> Iterator[Problem]:
    """peft passes over a name that it does not find; a reader of the estimate would not know."""
    for wanted in plan.adapter.modules_to_save:
        if not _has_module(base, wanted):
            what = f"this model has no module {wanted}"
            fix = "name its embeddings, its head or another module"
            yield Problem("adapter.modules_to_save", what, fix=fix)


def _has_module(model: torch.nn.Module, wanted: str) -> bool:
    return any(name == wanted or name.endswith(f".{wanted}") for name, _ in model.named_modules())


def _peft_config(base: Any, plan: FineTunePlan) -> Any:
    adapter = plan.adapter
    task = {"task_type": peft.TaskType.CAUSAL_LM}
    beside = {"modules_to_save": list(adapter.modules_to_save) or None}
    if plan.method in ("lora", "qlora"):
        targets = adapter.target_modules
        return peft.LoraConfig(
            r=adapter.r,
            lora_alpha=adapter.alpha,
            lora_dropout=adapter.dropout,
            target_modules=targets if targets == "all-linear" else list(targets),
            use_dora=adapter.use_dora,
            use_rslora=adapter.use_rslora,
            **beside,
            **task,
        )
    if plan.method == "ia3":
        return peft.IA3Config(**_ia3_modules(base, plan), **beside, **task)
    kind = peft.PrefixTuningConfig if plan.method == "prefix_tuning" else peft.PromptTuningConfig
    return kind(num_virtual_tokens=adapter.num_virtual_tokens, **task)


def _ia3_modules(base: Any, plan: FineTunePlan) -> dict[str, list[str]]:
    """Return the layers that IA³ scales: keys, values and the second of the feed-forward.

    peft lists them by model type. A type that it does not list gets those of the first listed
    type whose layers it all has, by name.
    """
    feedforward = {name for names in _IA3_FEEDFORWARD.values() for name in names}
    if plan.adapter.target_modules != "all-linear":
        targets = list(plan.adapter.target_modules)
    elif base.config.model_type in _IA3_TARGETS:
        targets = _IA3_TARGETS[base.config.model_type]
        feedforward = set(_IA3_FEEDFORWARD[base.config.model_type])
    else:
        known = (names for names in _IA3_TARGETS.values())
        alike = (names for names in known if all(_has_module(base, name) for name in names))
        targets = next(alike, None)
    if targets is None:
        what = f"peft does not know which layers of a {base.config.model_type} ia3 scales"
        fix = "name keys, values and the last of the feed-forward, or use method: lora"
        raise InputError(Problem("adapter.target_modules", what, "a list of module names", fix))
    return {
        "target_modules": list(targets),
        "feedforward_modules": [name for name in targets if name in feedforward],
    }
