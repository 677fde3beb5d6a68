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
    piece; then each weight arrives in the plan's dtype, is quantised where the plan says so, and
    the arrived copy is freed. k-bit preparation then turns norms, embeddings and head into fp32
    and empties the cache. What this leaves behind decides how much more is reserved than used.

    Assumption: weights arrive one at a time (transformers copies up to four at once).

    Args:
        recorder: Gets the load phase and the claims of the model's tensors.
        model: Prepared, on fake or real tensors.
        plan: Tells quantisation and dtypes.
        straight: Whether the weights go straight onto the device (``device_map``).
    """
    trace = recorder.trace
    recorder.mark("load")
    parameters = list(model.parameters())
    base = [one for one in parameters if parameter_component(one, plan) == "weights"]
    arriving = BYTES_PER_VALUE[plan.weights_dtype]
    if straight:
        trace.died(trace.born(sum(_final_bytes(one, arriving) for one in base)))
    upcast: list[tuple[torch.nn.Parameter, int]] = []
    for parameter in base:
        beside = quantization_tensors(parameter)
        arrived_bytes = _numel(parameter) * arriving
        if beside and straight:
            arrived = trace.born(arrived_bytes)
            recorder.claim([parameter], "weights")
            recorder.claim(beside, "quantization_state")
            trace.died(arrived)
        elif straight and arrived_bytes < _bytes(parameter):
            upcast.append((parameter, trace.born(arrived_bytes)))
        else:
            recorder.claim([parameter], "weights")
            recorder.claim(beside, "quantization_state")
    for parameter, arrived in upcast:
        recorder.claim([parameter], "weights")
        trace.died(arrived)
    if upcast:
        trace.flushed()
    recorder.claim(model.buffers(), "weights")
    adapters = [one for one in parameters if parameter_component(one, plan) == "adapters"]
    recorder.claim(adapters, "adapters")


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
