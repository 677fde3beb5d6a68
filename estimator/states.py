"""What a step holds whatever its batch: weights, adapters, gradients, optimizer states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

from estimator.architecture import Architecture, Linear
from estimator.plan import BYTES_PER_VALUE, FineTunePlan

_BLOCK = 64  # weights that share one 4-bit scale
_SCALE_BLOCK = 256  # scales that share one second-level scale
_OPTIMIZER_BLOCK = 256  # values that share one scale in an 8-bit optimizer
_SMALLEST_8_BIT = 4096  # bitsandbytes keeps the states of smaller tensors in 32 bits
_SMALLEST_PAGED = 100_000  # it pages the states of tensors of at least this size


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


def read_states(plan: FineTunePlan, architecture: Architecture) -> States:
    """Return what the plan's step holds on one GPU, to the byte.

    Not counted: rotary tables and step counters, a few KiB together, and what a paged optimizer
    keeps in managed memory, which the driver moves between GPU and host.
    """
    trained = Counts(_trained(plan, architecture))
    itemsize = BYTES_PER_VALUE[plan.adapter.dtype if plan.uses_adapter else plan.weights_dtype]
    weights, quantization, load = _weights(plan, architecture)
    return States(
        weights=weights,
        quantization_state=quantization,
        adapters=trained.total * itemsize if plan.uses_adapter else 0,
        gradients=trained.total * itemsize,
        optimizer_states=_optimizer_states(plan, trained, itemsize),
        optimizer_temporaries=_optimizer_temporaries(plan, trained, itemsize),
        load_temporaries=load,
        num_trainable=trained.total,
    )


class Counts:
    """Tensors by their shape: ``(shape, how many)`` pairs."""

    def __init__(self, shapes: Iterable[tuple[tuple[int, ...], int]]) -> None:
        self.shapes = list(shapes)
        self.total = sum(prod(shape) * times for shape, times in self.shapes)
        self.largest = max((prod(shape) for shape, _ in self.shapes), default=0)


def _trained(plan: FineTunePlan, arch: Architecture) -> Iterator[tuple[tuple[int, ...], int]]:
    if plan.uses_adapter:
        for linear in target_linears(plan, arch):
            yield (plan.adapter.r, linear.in_features), arch.num_hidden_layers
            yield (linear.out_features, plan.adapter.r), arch.num_hidden_layers
        return
    layers = arch.num_hidden_layers
    if plan.method == "last_layers":
        layers = min(plan.num_trained_layers, layers)
    else:
        for module in arch.rest:
            yield from ((shape, 1) for _, shape in module.tensors)
    for module in arch.layer:
        yield from ((shape, layers) for _, shape in module.tensors)


def _weights(plan: FineTunePlan, arch: Architecture) -> tuple[int, int, int]:
    """Return the bytes of weights and of quantization state, and what loading takes besides."""
    itemsize = BYTES_PER_VALUE[plan.weights_dtype]
    if not plan.is_quantized:
        return arch.num_parameters * itemsize, 0, 0
    packed = state = biases = num_packed = largest = 0
    for linear in arch.linears:
        count = linear.in_features * linear.out_features
        packed += (count + 1) // 2
        state += _quantization_state_bytes(count, double=plan.double_quant)
        biases += linear.out_features if linear.has_bias else 0
        num_packed += count
        largest = max(largest, count)
    layers = arch.num_hidden_layers
    plain = arch.num_parameters - layers * (num_packed + biases)
    weights = layers * (packed + biases * itemsize) + plain * (
        4 if plan.prepares_kbit else itemsize
    )
    # k-bit preparation turns the embeddings and the head into 32 bits, one after the other
    arrives = arch.vocab_size * arch.hidden_size if plan.prepares_kbit and itemsize < 4 else largest
    return weights, layers * state, arrives * itemsize


def _quantization_state_bytes(count: int, *, double: bool) -> int:
    """Return what bitsandbytes keeps beside ``count`` 4-bit weights: scales and code books."""
    code_book = 16 * 4
    scales = -(-count // _BLOCK)
    if not double:
        return 4 * scales + code_book
    return scales + 4 * -(-scales // _SCALE_BLOCK) + 256 * 4 + 4 + code_book


def _optimizer_states(plan: FineTunePlan, trained: Counts, itemsize: int) -> int:
    name = plan.optimizer.removeprefix("paged_")
    if name.startswith("adamw_torch"):
        return 2 * itemsize * trained.total
    if name == "sgd":
        return 0
    if name == "adafactor":
        return sum(times * _adafactor_bytes(shape) for shape, times in trained.shapes)
    paged = plan.optimizer != name  # then large states lie in managed memory, not on the GPU
    sizes = [(prod(shape), times) for shape, times in trained.shapes]
    sizes = [(n, times) for n, times in sizes if not (paged and n >= _SMALLEST_PAGED)]
    num_states = 1 if name.startswith("lion") else 2
    if not name.endswith("8bit"):
        return num_states * 4 * sum(count * times for count, times in sizes)
    tables = num_states * 256 * 4  # one code book for each kind of state
    return tables + num_states * sum(times * _bytes_in_8_bit(count) for count, times in sizes)


def _adafactor_bytes(shape: tuple[int, ...]) -> int:
    """Adafactor keeps a row and a column of sums, in 32 bits, for each matrix."""
    rows_and_columns = prod(shape[:-1]) + prod((*shape[:-2], shape[-1]))
    return 4 * (rows_and_columns if len(shape) > 1 else prod(shape))


def _bytes_in_8_bit(count: int) -> int:
    if count < _SMALLEST_8_BIT:
        return 4 * count
    return count + 4 * -(-count // _OPTIMIZER_BLOCK)


def _optimizer_temporaries(plan: FineTunePlan, trained: Counts, itemsize: int) -> int:
    if plan.optimizer in ("adamw_torch", "adamw_torch_foreach"):
        return itemsize * trained.total  # the foreach kernels' denominators, for all at once
    if plan.optimizer == "adafactor":
        # one tensor at a time: the update and its square; of 16 bits also weight and gradient in 32
        return (8 if itemsize == 4 else 16) * trained.largest
    return 0
