"""Three ways for weights to arrive: as fake tensors, at random, and from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from estimator.plan import FineTunePlan
from trainer.skeleton import (
    DTYPES,
    attention_implementation,
    quantization_config,
    quantized_linears,
    trusts_remote_code,
)
from trainer.untyped import bnb, transformers

_STANDARD_DEVIATION = 0.02  # of random weights; transformers' default


def fill_at_random(model: Any, plan: FineTunePlan, device: torch.device) -> None:
    """Give a meta model real weights drawn at random, quantising each one as it arrives.

    Memory and speed do not depend on a weight's value, so a probe needs no download.
    """
    dtype = DTYPES[plan.weights_dtype]
    for module in quantized_linears(model):
        _quantize_random(module, dtype, device)
        module._is_hf_initialized = True
    _replace_tensors(
        model,
        lambda old: torch.empty_like(old, device=device) if old.device.type == "meta" else old,
    )
    model.tie_weights()
    model.initialize_weights()


def _quantize_random(module: Any, dtype: torch.dtype, device: torch.device) -> None:
    shape = (module.out_features, module.in_features)
    in_4_bits = isinstance(module, bnb.nn.Linear4bit)
    drawn_on = device if in_4_bits else "cpu"  # Int8Params quantises on its way off the CPU alone
    weight = torch.empty(shape, dtype=dtype, device=drawn_on).normal_(std=_STANDARD_DEVIATION)
    if in_4_bits:
        old = module.weight
        module.weight = bnb.nn.Params4bit(
            weight,
            requires_grad=False,
            compress_statistics=old.compress_statistics,
            quant_type=old.quant_type,
            module=module,
        ).to(device)
    else:
        parameter = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        module.weight = parameter.to(device)
    if module.bias is not None:
        module.bias = torch.nn.Parameter(
            torch.zeros(module.out_features, dtype=dtype, device=device), requires_grad=False
        )


def load_pretrained(folder: Path, config: Any, plan: FineTunePlan, device: torch.device) -> Any:
    """Return the model with the safetensors weights of a local folder, as users load it."""
    straight = plan.is_quantized or plan.device_map_load
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=DTYPES[plan.weights_dtype],
        attn_implementation=attention_implementation(plan, config),
        quantization_config=quantization_config(plan),
        device_map={"": device} if straight else None,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=trusts_remote_code(config),
    )
    return model if straight else model.to(device)


def keep_4_bit_layout(model: torch.nn.Module) -> None:
    """Stop bitsandbytes from packing 4-bit weights anew when a CPU first runs them untrained.

    On a CPU with AVX-512 BF16 it would, at the first forward pass in evaluation mode, replace the
    weights for good by a layout with scales in 16 bits: an evaluation would change what is
    trained after it. And it fails where a layer's inputs are no multiple of 64.
    Source: ``Linear4bit.forward`` and ``_convert_weight_packed_for_cpu`` of bitsandbytes 0.50.
    """
    for module in quantized_linears(model):
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def to_fake(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Swap every meta tensor of a model for a fake one of device cpu, keeping ties.

    Quantised weights become plain parameters that carry their ``quant_state``: bitsandbytes' own
    parameter classes cannot wrap a fake tensor.
    """
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            _fake_quant_state(state, mode)
    _replace_tensors(model, lambda tensor: _fake(tensor, mode))
    for module in quantized_linears(model):
        if isinstance(module, bnb.nn.Linear8bitLt):
            module.state.has_fp16_weights = False
            module.weight.CB = module.weight.data
            module.weight.has_fp16_weights = False


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


def _fake_quant_state(state: Any, mode: FakeTensorMode) -> None:
    state.absmax, state.code = _fake(state.absmax, mode), _fake(state.code, mode)
    if state.nested:
        state.offset = _fake(state.offset, mode)
        state.state2.absmax = _fake(state.state2.absmax, mode)
        state.state2.code = _fake(state.state2.code, mode)


def _replace_tensors(
    model: torch.nn.Module, replace: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Replace parameters, buffers, plain tensor attributes and those in plain mappings."""
    done: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # keeps the old ones: ids stay unique

    def once(old: torch.Tensor) -> Any:
        if id(old) not in done:
            done[id(old)] = (_replaced(old, replace), old)
        return done[id(old)][0]

    for module in model.modules():
        holders: list[dict[str, Any]] = [vars(module)]  # the parameters' mapping is among these
        holders += [value for value in vars(module).values() if isinstance(value, dict)]
        for holder in holders:
            for name, value in list(holder.items()):
                if isinstance(value, torch.Tensor):
                    holder[name] = once(value)


def _replaced(old: torch.Tensor, replace: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    if not isinstance(old, torch.nn.Parameter):
        return replace(old)
    replaced = replace(old)
    if replaced is old:
        return old
    new: Any = torch.nn.Parameter(replaced, requires_grad=old.requires_grad)
    for extra in ("quant_state", "SCB"):
        value = getattr(old, extra, None)
        if isinstance(value, torch.Tensor):
            value = replace(value)
        if value is not None:
            setattr(new, extra, value)
    if hasattr(old, "bnb_quantized"):
        new.bnb_quantized = True
    return new
