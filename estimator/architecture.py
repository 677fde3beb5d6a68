"""From config.json to an architecture: named parameter shapes and counts, without torch.

What each family is made of is data, in ``data/architectures.json``; data/README.md describes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Literal

from estimator.problems import InputError, Problem

Shape = tuple[int, ...]
Kind = Literal["embedding", "linear", "conv1d", "rms_norm", "layer_norm", "tensor"]

_TABLE = Path(__file__).with_name("data") / "architectures.json"

_ALIASES = {
    "hidden_size": ("n_embd",),
    "intermediate_size": ("n_inner", "ffn_dim"),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "max_position_embeddings": ("n_positions",),
    "num_experts": ("num_local_experts",),
    "vocab_size": (),
}
"""Hugging Face's names, and the older ones that some families still use."""


class NotModelled(InputError):
    """An architecture that this module cannot describe; the dry run may still read it."""

    def __init__(self, model_type: str, reason: str) -> None:
        self.model_type = model_type
        self.reason = reason
        fix = "use --dry-run, which builds the model through transformers"
        super().__init__(Problem(f"model_type {model_type}", reason, fix=fix))


@dataclass(frozen=True, slots=True)
class Module:
    """A module that owns parameters.

    Attributes:
        name: Its name in transformers, within its layer where it is in one.
        kind: What it is; ``conv1d`` is GPT-2's linear with a transposed weight.
        tensors: Its parameters' names, relative to the module's, and their shapes.
    """

    name: str
    kind: Kind
    tensors: tuple[tuple[str, Shape], ...]

    @property
    def num_parameters(self) -> int:
        """Values in all its tensors."""
        return sum(prod(shape) for _, shape in self.tensors)


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer: what LoRA adapts and bitsandbytes quantises."""

    name: str
    in_features: int
    out_features: int
    has_bias: bool


@dataclass(frozen=True, slots=True)
class Architecture:
    """A causal language model's parameters: ``num_hidden_layers`` equal layers, and the rest.

    ``layer`` holds one layer's modules, ``rest`` those outside (embeddings, last norm, head). A
    head tied to the embeddings owns no parameter and is left out. ``linears`` are the linear layers
    within one decoder layer (the head is not among them).
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    layers_name: str
    layer: tuple[Module, ...]
    rest: tuple[Module, ...]
    linears: tuple[Linear, ...]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Architecture:
        """Return the architecture that a config.json describes.

        Raises:
            NotModelled: Its model_type, or a variant it asks for, is not described here.
            InputError: A size is missing or impossible.
        """
        return _build(config)

    @property
    def num_parameters(self) -> int:
        """Every parameter, tied tensors once; buffers are not parameters."""
        in_layers = sum(module.num_parameters for module in self.layer)
        outside = sum(module.num_parameters for module in self.rest)
        return self.num_hidden_layers * in_layers + outside

    def named_shapes(self) -> dict[str, Shape]:
        """Return every parameter's shape under the name transformers gives it."""
        return dict(self._named_shapes())

    def _named_shapes(self) -> Iterator[tuple[str, Shape]]:
        for module in self.rest:
            for suffix, shape in module.tensors:
                yield module.name + suffix, shape
        for index in range(self.num_hidden_layers):
            for module in self.layer:
                for suffix, shape in module.tensors:
                    yield f"{self.layers_name}.{index}.{module.name}{suffix}", shape


def modelled_types() -> tuple[str, ...]:
    """Return every model_type that :meth:`Architecture.from_config` describes."""
    return tuple(_families())


@dataclass(frozen=True, slots=True)
class _Family:
    defaults: dict[str, Any]
    requires: dict[str, Any]
    modules: dict[str, str]


@cache
def _families() -> dict[str, _Family]:
    families: dict[str, _Family] = {}
    for name, row in json.loads(_TABLE.read_text(encoding="utf-8")).items():
        base = families[row["like"]] if "like" in row else _Family({}, {}, {})
        modules = base.modules | row.get("modules", {})
        families[name] = _Family(
            base.defaults | row.get("defaults", {}),
            base.requires | row.get("requires", {}),
            {module: spec for module, spec in modules.items() if spec is not None},
        )
    return families


def _build(config: dict[str, Any]) -> Architecture:
    model_type = str(config.get("model_type"))
    family = _families().get(model_type)
    if family is None:
        raise NotModelled(model_type, "is not an architecture the formula describes")
    for key, value in family.requires.items():
        if config.get(key, value) != value:
            reason = f"is described only with {key}: {json.dumps(value)}"
            raise NotModelled(model_type, reason)
    given = {key: value for key, value in config.items() if value is not None}
    values = {key: value for key, value in family.defaults.items() if value is not None} | given
    sizes = _sizes(values)
    layer: list[Module] = []
    rest: list[Module] = []
    layers_name = ""
    for name, spec in family.modules.items():
        if name == "lm_head" and values["tie_word_embeddings"]:
            continue
        prefix, star, inner_name = name.partition(".*.")
        layers_name = prefix if star else layers_name
        (layer if star else rest).append(_module(inner_name or name, spec, sizes, values))
    return Architecture(
        model_type=model_type,
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["inner"],
        num_hidden_layers=_size(values, "num_hidden_layers"),
        num_attention_heads=_size(values, "num_attention_heads"),
        num_key_value_heads=sizes["kv"] // sizes["head_dim"],
        head_dim=sizes["head_dim"],
        vocab_size=sizes["vocab"],
        tie_word_embeddings=bool(values["tie_word_embeddings"]),
        layers_name=layers_name,
        layer=tuple(layer),
        rest=tuple(rest),
        linears=tuple(_linear(one) for one in layer if one.kind in ("linear", "conv1d")),
    )


def _sizes(values: dict[str, Any]) -> dict[str, int]:
    """Return the sizes that the table's module shapes are written in."""
    hidden = _size(values, "hidden_size")
    num_heads = _size(values, "num_attention_heads")
    head_dim = _size(values, "head_dim", hidden // num_heads)
    inner = _size(values, "intermediate_size", 4 * hidden)
    return {
        "hidden": hidden,
        "inner": inner,
        "vocab": _size(values, "vocab_size"),
        "head_dim": head_dim,
        "heads": num_heads * head_dim,
        "kv": _size(values, "num_key_value_heads", num_heads) * head_dim,
        "positions": _size(values, "max_position_embeddings", 1),
        "experts": _size(values, "num_experts", 1),
        "expert_inner": _size(values, "moe_intermediate_size", inner),
    }


def _size(values: dict[str, Any], key: str, default: int | None = None) -> int:
    names = (key, *_ALIASES.get(key, ()))
    value = next((values[name] for name in names if name in values), default)
    if value is None:
        fix = "add it, or name the model's original config.json"
        raise InputError(Problem(f"config.json: {key}", "is missing", "a whole number", fix))
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        what = f"{value!r} is not a size"
        raise InputError(Problem(f"config.json: {key}", what, "a whole number above 0"))
    return value


def _module(name: str, spec: str, sizes: dict[str, int], values: dict[str, Any]) -> Module:
    """Build a module from a line of the table, such as ``linear hidden heads+2*kv yes``."""
    kind, *words = spec.split()
    if kind == "tensor":
        return Module(name, "tensor", (("", tuple(_value(word, sizes) for word in words)),))
    if kind in ("rms_norm", "layer_norm"):
        shape = (_value(words[0], sizes),)
        bias = ((".bias", shape),) if kind == "layer_norm" else ()
        return Module(name, kind, ((".weight", shape), *bias))
    first, second = (_value(word, sizes) for word in words[:2])
    if kind == "embedding":
        return Module(name, "embedding", ((".weight", (first, second)),))
    has_bias = bool(words[2:]) and (words[2] == "yes" or bool(values[words[2]]))
    weight = (second, first) if kind == "linear" else (first, second)
    bias = ((".bias", (second,)),) if has_bias else ()
    return Module(name, "linear" if kind == "linear" else "conv1d", ((".weight", weight), *bias))


def _value(expression: str, sizes: dict[str, int]) -> int:
    """Return a sum of products of sizes and whole numbers, for example ``heads+2*kv``."""
    return sum(
        prod(int(factor) if factor.isdigit() else sizes[factor] for factor in term.split("*"))
        for term in expression.split("+")
    )


def _linear(module: Module) -> Linear:
    (_, weight), *bias = module.tensors
    size_in, size_out = reversed(weight) if module.kind == "linear" else weight
    return Linear(module.name, size_in, size_out, bool(bias))
