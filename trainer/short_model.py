"""A model's equal layers: which they are, and the model run with only a few of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_iter

from estimator.estimate import Phase
from estimator.splice import KEPT_UNITS, Pass, Stretch, splice
from estimator.trace import Trace
from trainer.recorder import StorageRecorder

_LONGEST_PERIOD = 8
"""Kinds of layers take turns after at most so many (Gemma 3: five sliding, one full)."""

_PER_LAYER_KEYS = ("layer_types", "mlp_layer_types", "layers_block_type", "attention_layers")


@dataclass(frozen=True, slots=True)
class Repetition:
    """Where a model's layers repeat.

    Attributes:
        first: The first layer of the first unit.
        period: Layers in a unit.
        num_units: Units from there on; what follows is not repeated.
    """

    first: int
    period: int
    num_units: int

    @property
    def num_left_out(self) -> int:
        """Units that need not be run."""
        return self.num_units - KEPT_UNITS

    @property
    def kept_end(self) -> int:
        """The layer after the last kept unit, counted in the short model."""
        return self.first + KEPT_UNITS * self.period

    def kept(self, layers: list[Any]) -> list[Any]:
        """Return what is kept of one thing for each layer."""
        return layers[: self.kept_end] + layers[self.first + self.num_units * self.period :]

    def unit_of(self, layer: int) -> int | None:
        """Return the unit of one of the short model's layers."""
        if not self.first <= layer < self.kept_end:
            return None
        return (layer - self.first) // self.period


def decoder_layers(model: Any) -> torch.nn.ModuleList | None:
    """Return the list of a model's decoder layers, None where there is no single such list."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(count, int) or count < 2:
        return None
    lists = [
        one for one in model.modules() if isinstance(one, torch.nn.ModuleList) and len(one) == count
    ]
    return lists[0] if len(lists) == 1 else None


def find_repetition(layers: torch.nn.ModuleList) -> Repetition | None:
    """Return the repetition that leaves out most layers, None where too few are alike."""
    seen = [_kind(layer) for layer in layers]
    kinds = [seen.index(kind) for kind in seen]
    best: Repetition | None = None
    for period in range(1, _LONGEST_PERIOD + 1):
        for start, end in _runs(kinds, period):
            found = Repetition(start, period, (end - start) // period)
            saved = found.num_left_out * period
            if found.num_left_out > 0 and saved > (best.num_left_out * best.period if best else 0):
                best = found
    return best


def _runs(kinds: list[int], period: int) -> Iterator[tuple[int, int]]:
    """Yield stretches in which every layer is like the one a period before."""
    start = 0
    for index in range(period, len(kinds) + 1):
        if index == len(kinds) or kinds[index] != kinds[index - period]:
            yield start, index
            start = index - period + 1


def _kind(layer: torch.nn.Module) -> list[Any]:
    """Return all that can make a difference between two layers but their number."""
    return [
        (name, type(module), _settings(module), _shapes(module))
        for name, module in layer.named_modules()
    ]


def _settings(module: torch.nn.Module) -> list[tuple[str, Any]]:
    return sorted(
        (key, value)
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and key not in ("layer_idx", "layer_id")
    )


def _shapes(module: torch.nn.Module) -> list[Any]:
    return [
        (name, one.shape, one.dtype, one.requires_grad)
        for name, one in module.named_parameters(recurse=False)
    ]


def shorten(model: Any, recorder: StorageRecorder) -> ShortModel | None:
    """Return what runs a model with few of its layers, None where too few of them are alike."""
    layers = decoder_layers(model)
    repetition = find_repetition(layers) if layers is not None else None
    if layers is None or repetition is None:
        return None
    return ShortModel(model, layers, repetition, recorder)


class ShortModel:
    """Runs a model with its kept layers alone, and tells which events belong to which.

    Args:
        model: The whole model, prepared; it is whole again when :meth:`active` ends.
        layers: Its decoder layers.
        repetition: Which of them are kept.
        recorder: Whose trace is cut up.
    """

    def __init__(
        self,
        model: Any,
        layers: torch.nn.ModuleList,
        repetition: Repetition,
        recorder: StorageRecorder,
    ) -> None:
        self.config = model.config.get_text_config()
        self.layers = layers
        self.repetition = repetition
        self.recorder = recorder
        self.stretches = [Stretch(0)]
        self._number = 0
        self._whole = list(layers)

    def enter(self, phase: Phase) -> None:
        """Note that a phase begins; before the optimizer steps, what was left out has gradients."""
        if phase == "forward":
            self._number += 1
        if phase == "optimizer":
            self._stand_in()
        self._stretch(None)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Leave layers out, and watch those that are kept."""
        kept = self.repetition.kept(self._whole)
        lists = {
            key: value
            for key in _PER_LAYER_KEYS
            if isinstance(value := vars(self.config).get(key), list)
        }
        modules = self.layers._modules
        self.layers._modules = {str(index): layer for index, layer in enumerate(kept)}
        for key, value in lists.items():
            setattr(self.config, key, self.repetition.kept(value))
        handles = [
            handle for index, layer in enumerate(kept) for handle in self._watch(layer, index)
        ]
        try:
            yield
        finally:
            self.layers._modules = modules
            for key, value in lists.items():
                setattr(self.config, key, value)
            for handle in handles:
                handle.remove()

    def whole_trace(self) -> Trace:
        """Return the trace as it were with all layers.

        Raises:
            NotAlike: The layers that were run do not leave the same trace.
        """
        return splice(self.recorder.trace, self.stretches, self.repetition.num_left_out)

    def _watch(self, layer: torch.nn.Module, index: int) -> list[Any]:
        is_last = index == len(self.repetition.kept(self._whole)) - 1

        def before(_: Any, args: Any, kwargs: Any) -> None:
            if self.recorder.phase != "forward":
                return  # a checkpoint computes again
            self._stretch(index)
            if index == 0:
                self._on_gradient((args, kwargs.get("hidden_states")), None)

        def after(_module: Any, _args: Any, output: Any) -> None:
            if self.recorder.phase != "forward":
                return
            self._on_gradient(output, index)
            if is_last:
                self._stretch(None)

        return [
            layer.register_forward_pre_hook(before, with_kwargs=True),
            layer.register_forward_hook(after),
        ]

    def _on_gradient(self, output: Any, index: int | None) -> None:
        """Begin a layer's stretch of backward when the gradient of its output arrives."""
        for tensor in tree_iter(output):
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                if not tensor.is_leaf:
                    tensor.register_hook(lambda _: self._stretch(index, is_backward=True))
                return

    def _stretch(self, index: int | None, *, is_backward: bool = False) -> None:
        start = len(self.recorder.trace.events)
        unit = None if index is None else self.repetition.unit_of(index)
        way = None if unit is None else Pass(self._number, is_backward)
        last = self.stretches[-1]
        if (last.unit, last.way) == (unit, way):
            return
        if last.start == start:
            self.stretches.pop()
        self.stretches.append(Stretch(start, unit, way))

    def _stand_in(self) -> None:
        """Give gradients to the trained parameters of layers that were left out."""
        first, period = self.repetition.first, self.repetition.period
        for index in range(self.repetition.kept_end, len(self._whole)):
            if index >= first + self.repetition.num_units * period:
                break
            like = self._whole[first + period + (index - first) % period]
            pairs = zip(self._whole[index].parameters(), like.parameters(), strict=True)
            for parameter, equal in pairs:
                if equal.grad is not None:
                    parameter.grad = torch.empty_like(equal.grad)
                    self.recorder.stand_in(parameter.grad)
