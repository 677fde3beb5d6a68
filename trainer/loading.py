"""How the weights get onto the GPU: the load phase of a trace."""

from __future__ import annotations

import torch

from estimator.plan import BYTES_PER_VALUE, FineTunePlan
from trainer.observe import parameter_component
from trainer.recorder import StorageRecorder
from trainer.skeleton import quantization_tensors


def record_load(
    recorder: StorageRecorder, model: torch.nn.Module, plan: FineTunePlan, *, straight: bool
) -> None:
    """Write the births of a model's tensors, as loading them would cause them.

    Loaded straight onto the GPU, transformers first reserves the model's final size in one
    piece; then the weights arrive in the order of their names, each in the plan's dtype, one at a
    time where it is quantised, and the arrived copy is freed. k-bit preparation then turns norms,
    embeddings and head into fp32 and empties the cache. What this leaves behind decides how much
    more is reserved than used. Otherwise the finished model is moved, module by module.

    Source: ``convert_and_load_state_dict_in_model`` and ``caching_allocator_warmup`` of
    transformers 5.23, ``prepare_model_for_kbit_training`` of peft 0.21.

    Args:
        recorder: Gets the load phase and the claims of the model's tensors.
        model: Prepared, on fake or real tensors.
        plan: Tells quantisation and dtypes.
        straight: Whether the weights go straight onto the device (``device_map``).
    """
    recorder.mark("load")
    parameters = list(model.parameters())
    adapters = [one for one in parameters if parameter_component(one, plan) == "adapters"]
    if straight:
        _arrive(recorder, model, plan)
    else:
        for parameter in parameters:
            if parameter_component(parameter, plan) == "weights":
                recorder.claim([parameter], "weights")
                recorder.claim(quantization_tensors(parameter), "quantization_state")
    recorder.claim(model.buffers(), "weights")
    recorder.claim(adapters, "adapters")


def _arrive(recorder: StorageRecorder, model: torch.nn.Module, plan: FineTunePlan) -> None:
    trace = recorder.trace
    arriving = BYTES_PER_VALUE[plan.weights_dtype]
    base = {
        name: one
        for name, one in model.named_parameters()
        if parameter_component(one, plan) == "weights"
    }
    trace.died(trace.born(sum(_final_bytes(one, arriving) for one in base.values())))
    waiting: dict[str, int] = {}  # what k-bit preparation will turn into fp32, as it arrived
    for name in sorted(base, key=_natural_order):
        parameter = base[name]
        beside = quantization_tensors(parameter)
        arrived_bytes = _numel(parameter) * arriving
        if beside:
            arrived = trace.born(arrived_bytes)
            recorder.claim(reversed(beside), "quantization_state")
            recorder.claim([parameter], "weights")
            trace.died(arrived)
        elif arrived_bytes < _bytes(parameter):
            waiting[name] = trace.born(arrived_bytes)
        else:
            recorder.claim([parameter], "weights")
    for name, parameter in base.items():
        if name in waiting:
            recorder.claim([parameter], "weights")
            trace.died(waiting[name])
    if waiting:
        trace.flushed()


def _natural_order(name: str) -> list[tuple[int, int | str]]:
    """Order names as transformers orders a checkpoint's: part by part, numbers before words."""
    plain = name.replace("base_model.model.", "").replace(".base_layer.", ".")
    return [(0, int(part)) if part.isdigit() else (1, part) for part in plain.split(".")]


def _numel(parameter: torch.nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def _bytes(parameter: torch.nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()


def _final_bytes(parameter: torch.nn.Parameter, arriving: int) -> int:
    """What transformers expects a weight to take: packed, or in the arriving dtype."""
    if quantization_tensors(parameter):
        return _bytes(parameter)
    return parameter.numel() * arriving
