"""What a step holds whatever its batch: weights, adapters, gradients, optimizer states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod

from estimator.architecture import Architecture, Linear, Module, Shape
from estimator.blocks import block, exact, rounded
from estimator.layer_forms import LayerForm
from estimator.plan import BYTES_PER_VALUE, FineTunePlan

_BLOCK = 64  # weights that share one 4-bit scale
_SCALE_BLOCK = 256  # scales that share one second-level scale
_OPTIMIZER_BLOCK = 256  # values that share one scale in an 8-bit optimizer
_SMALLEST_8_BIT = 4096  # bitsandbytes keeps the states of smaller tensors in 32 bits
_SMALLEST_PAGED = 100_000  # it pages the states of tensors of at least this size

Tensors = list[tuple[Shape, int]]
"""Shapes, and how many tensors in a row have each."""

Round = Callable[[float], int]


@dataclass(frozen=True, slots=True)
class States:
    """Bytes and counts of everything that outlives a step.

    ``optimizer_temporaries`` is what the optimizer's implementation takes while it steps, and
    ``load_temporaries`` what loading takes beyond the weights that stay.
    """

    weights: int
    quantization_state: int
    adapters: int
    gradients: int
    optimizer_states: int
    optimizer_temporaries: int
    load_temporaries: int
    num_trainable: int


def target_linears(plan: FineTunePlan, architecture: Architecture) -> tuple[Linear, ...]:
    """Return the linear layers of one decoder layer that get an adapter."""
    targets = plan.adapter.target_modules
    return tuple(
        linear
        for linear in architecture.linears
        if targets == "all-linear" or linear.name.rpartition(".")[2] in targets
    )


def read_states(
    plan: FineTunePlan,
    architecture: Architecture,
    form: LayerForm | None = None,
    *,
    on_cuda: bool = True,
) -> States:
    """Return what the plan's step holds on one GPU, to the byte.

    Not counted: rotary tables, a few KiB together, and what a paged optimizer keeps in managed
    memory, which the driver moves between GPU and host.

    Args:
        plan: What is trained.
        architecture: The model.
        form: How its layers are made; Llama's where nothing is said.
        on_cuda: Whether CUDA's allocator rounds every storage up.
    """
    fresh: Round = block if on_cuda else exact
    packed: Round = rounded if on_cuda else exact  # cut from the one piece that loading reserves
    trained = list(_trained(plan, architecture, form or LayerForm()))
    itemsize = BYTES_PER_VALUE[plan.adapter.dtype if plan.uses_adapter else plan.weights_dtype]
    weights, quantization, load = _weights(plan, architecture, packed)
    gradients = _sum(trained, lambda shape: fresh(itemsize * prod(shape)))
    return States(
        weights=weights,
        quantization_state=quantization,
        adapters=gradients if plan.uses_adapter else 0,
        gradients=gradients,
        optimizer_states=_optimizer_states(plan, architecture, trained, itemsize, fresh),
        optimizer_temporaries=_optimizer_temporaries(plan, trained, itemsize, fresh),
        load_temporaries=load,
        num_trainable=_sum(trained, prod),
    )


def _sum(tensors: Tensors, size: Callable[[Shape], int]) -> int:
    return sum(times * size(shape) for shape, times in tensors)


def _trained(
    plan: FineTunePlan, arch: Architecture, form: LayerForm
) -> Iterator[tuple[Shape, int]]:
    """Yield what is trained, in the order in which an optimizer takes it."""
    layers = arch.num_hidden_layers
    if plan.uses_adapter:
        yield from _adapter_shapes(plan, arch, form)
        return
    if plan.method == "last_layers":
        layers = min(plan.num_trained_layers, layers)
    else:
        yield from _shapes(plan, arch.rest[:1], 1)
    yield from _shapes(plan, arch.layer, layers)
    if plan.method != "last_layers":
        yield from _shapes(plan, arch.rest[1:], 1)


def _shapes(
    plan: FineTunePlan, modules: Iterable[Module], times: int
) -> Iterator[tuple[Shape, int]]:
    for module in modules:
        for name, shape in module.tensors:
            if plan.method != "bitfit" or name == ".bias":
                yield shape, times


def _adapter_shapes(
    plan: FineTunePlan, arch: Architecture, form: LayerForm
) -> Iterator[tuple[Shape, int]]:
    layers = arch.num_hidden_layers
    if plan.method == "prompt_tuning":
        yield (plan.adapter.num_virtual_tokens, arch.hidden_size), 1
    elif plan.method == "ia3":
        for linear in arch.linears:
            name = linear.name.rpartition(".")[2]
            if name == form.mlp_down:
                yield (1, linear.in_features), layers
            elif name in form.ia3:
                yield (linear.out_features, 1), layers
    else:
        for linear in target_linears(plan, arch):
            yield (plan.adapter.r, linear.in_features), layers
            yield (linear.out_features, plan.adapter.r), layers


def _weights(plan: FineTunePlan, arch: Architecture, size: Round) -> tuple[int, int, int]:
    """Return the bytes of weights and of quantization state, and what loading takes besides."""
    itemsize = BYTES_PER_VALUE[plan.weights_dtype]
    plain_itemsize = 4 if plan.prepares_kbit else itemsize
    weights = state = largest = 0
    for modules, times in ((arch.rest, 1), (arch.layer, arch.num_hidden_layers)):
        for module in modules:
            is_packed = plan.is_quantized and times > 1 and module.kind in ("linear", "conv1d")
            for name, shape in module.tensors:
                count = prod(shape)
                if is_packed and name == ".weight":
                    weights += times * size(count if plan.quantization == "int8" else count / 2)
                    state += times * sum(map(size, _quantization_state(plan, shape)))
                    largest = max(largest, count)
                else:
                    weights += times * size(count * (itemsize if is_packed else plain_itemsize))
    # k-bit preparation turns the embeddings and the head into 32 bits, one after the other
    arrives = arch.vocab_size * arch.hidden_size if plain_itemsize > itemsize else largest
    return weights, state, arrives * itemsize if plan.is_quantized else 0


def _quantization_state(plan: FineTunePlan, shape: Shape) -> Iterator[int]:
    """Yield the bytes that bitsandbytes keeps beside a weight: scales and code books."""
    if plan.quantization == "int8":
        yield 4 * shape[0]
        return
    yield 4 * 16
    scales = -(-prod(shape) // _BLOCK)
    if not plan.double_quant:
        yield 4 * scales
        return
    yield from (scales, 4 * -(-scales // _SCALE_BLOCK), 4 * 256, 4)


def _optimizer_states(
    plan: FineTunePlan, arch: Architecture, trained: Tensors, itemsize: int, size: Round
) -> int:
    name = plan.optimizer.removeprefix("paged_")
    if name.startswith("adamw_torch"):
        return 2 * _sum(trained, lambda shape: size(itemsize * prod(shape)))
    if name == "sgd":
        return 0
    if name == "adafactor":
        return _sum(trained, lambda shape: sum(map(size, _adafactor_sums(shape))))
    if plan.optimizer != name:  # then large states lie in managed memory, not on the GPU
        trained = [(shape, times) for shape, times in trained if prod(shape) < _SMALLEST_PAGED]
    num_states = 1 if name.startswith("lion") else 2
    if not name.endswith("8bit"):
        return num_states * _sum(trained, lambda shape: size(4 * prod(shape)))
    embeddings = 0
    if plan.method == "full":  # Hugging Face Trainer keeps the states of embeddings in 32 bits
        embeddings = sum(
            size(4 * count) - sum(map(size, _state_in_8_bits(count))) for count in _embeddings(arch)
        )
    tables = num_states * 256 * 4  # one code book for each kind of state
    in_8_bits = _sum(trained, lambda shape: sum(map(size, _state_in_8_bits(prod(shape)))))
    return tables + num_states * (in_8_bits + embeddings)


def _embeddings(arch: Architecture) -> Iterator[int]:
    for module in arch.rest:
        if module.kind == "embedding":
            yield module.num_parameters


def _adafactor_sums(shape: Shape) -> tuple[int, ...]:
    """Adafactor keeps a row and a column of sums, in 32 bits, for each matrix."""
    if len(shape) == 1:
        return (4 * shape[0],)
    return 4 * prod(shape[:-1]), 4 * prod((*shape[:-2], shape[-1]))


def _state_in_8_bits(count: int) -> tuple[int, ...]:
    if count < _SMALLEST_8_BIT:
        return (4 * count,)
    return count, 4 * -(-count // _OPTIMIZER_BLOCK)


def _optimizer_temporaries(plan: FineTunePlan, trained: Tensors, itemsize: int, size: Round) -> int:
    if plan.optimizer in ("adamw_torch", "adamw_torch_foreach"):
        # the foreach kernels' denominators, for all at once
        return _sum(trained, lambda shape: size(itemsize * prod(shape)))
    if plan.optimizer == "adafactor":
        return _adafactor_temporaries(trained, itemsize, size)
    return 0


def _adafactor_temporaries(trained: Tensors, itemsize: int, size: Round) -> int:
    """One tensor at a time: its update and the update's square; of 16 bits weight and gradient too.

    transformers' loop lets go of the last tensor's update only when it has the next one's.
    """
    most = before = 0
    for shape, times in trained:
        own = size(4 * prod(shape))
        for last in (before, own)[: min(times, 2)]:
            most = max(most, (2 if itemsize == 4 else 4) * own + last)
        before = own
    return most
