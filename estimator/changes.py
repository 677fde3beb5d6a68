"""What can be changed in a plan to save memory, least disturbing first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from estimator.architecture import Architecture
from estimator.compare import under_method
from estimator.models import resolve_model
from estimator.plan import FineTunePlan, parse_plan
from estimator.problems import InputError

Training = Literal["same", "nearly", "different"]

LENGTH_STEP = 64
"""Lengths are tried in multiples of this: kernels work in tiles of 64 and 128 tokens."""

_SHORTEST = 128
_LOWEST_RANK = 4


@dataclass(frozen=True, slots=True)
class Change:
    """One change to a plan.

    Attributes:
        kind: What it is about; changes of one kind exclude each other.
        text: The change in a few words.
        keys: The plan's keys that it sets; a dot reaches inside (``adapter.r``).
        training: Whether what is learnt stays the same: ``same`` computes the same mathematics
            (only rounding differs), ``nearly`` approximates it, ``different`` trains something
            else or on something else.
        price: What one pays for it.
    """

    kind: str
    text: str
    keys: dict[str, Any]
    training: Training
    price: str

    @property
    def override(self) -> str:
        """The change as it is typed after ``--set``; of several keys with the further ``--set``."""
        return " --set ".join(f"{key}={_typed(value)}" for key, value in self.keys.items())

    def apply(self, plan: FineTunePlan) -> FineTunePlan:
        """Return the changed plan.

        Raises:
            InputError: The changed plan is not possible.
        """
        return with_keys(plan, self.keys)


def with_keys(plan: FineTunePlan, keys: Mapping[str, Any]) -> FineTunePlan:
    """Return a plan with some keys set; a dot reaches inside, quantization follows the method.

    Raises:
        InputError: The changed plan is not possible.
    """
    document = plan.to_document()
    if "method" in keys and "quantization" not in keys:
        del document["quantization"]
    for key, value in keys.items():
        *outer, last = key.split(".")
        part = document
        for name in outer:
            part = part[name]
        part[last] = value
    return parse_plan(document)


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value)


@dataclass(frozen=True, slots=True)
class Kind:
    """Changes of one kind, mildest first.

    Of a graded kind each saves more than the one before; ``usual`` is the one to show where none
    is needed: about half of what there is.
    """

    changes: Sequence[Change]
    is_graded: bool = False
    usual: int = 0


KindOf = Callable[[FineTunePlan], Kind]


def _attention(plan: FineTunePlan) -> Kind:
    if plan.attention == "eager":
        text, keys = "attention: sdpa in place of eager", {"attention": "sdpa"}
    elif plan.attention_backend == "math":
        text, keys = "attention: the backend PyTorch chooses", {"attention_backend": "auto"}
    else:
        return Kind(())
    return Kind((Change("attention", text, keys, "same", "none: it is faster"),))


def _outputs(plan: FineTunePlan) -> Kind:
    if not plan.keep_outputs:
        return Kind(())
    text = "let the logits go before backward"
    return Kind((Change("keep_outputs", text, {"keep_outputs": False}, "same", "none"),))


def _fused(plan: FineTunePlan) -> Kind:
    if plan.optimizer not in ("adamw_torch", "adamw_torch_foreach"):
        return Kind(())
    text, keys = "fused AdamW in place of foreach", {"optimizer": "adamw_torch_fused"}
    return Kind((Change("optimizer_kernel", text, keys, "same", "none: it is faster"),))


def _loss(plan: FineTunePlan) -> Kind:
    if plan.loss != "default":
        return Kind(())
    chunked = "the loss in chunks of the sequence", {"loss": "chunked"}, "a little time"
    liger = "Liger's fused head and loss", {"loss": "liger"}, "the liger-kernel package"
    return Kind(
        tuple(Change("loss", text, keys, "same", price) for text, keys, price in (chunked, liger))
    )


def _checkpointing(plan: FineTunePlan) -> Kind:
    if plan.gradient_checkpointing or plan.method == "prefix_tuning":
        return Kind(())
    keys = {"gradient_checkpointing": True}
    price = "about a third more time: each layer's forward runs twice"
    return Kind(
        (Change("gradient_checkpointing", "gradient checkpointing on", keys, "same", price),)
    )


def _micro_batch(plan: FineTunePlan) -> Kind:
    """Smaller micro-batches that divide the plan's, so that the global batch stays."""
    whole = plan.micro_batch_size
    found = []
    for size in (one for one in range(whole // 2, 0, -1) if whole % one == 0):
        steps = plan.gradient_accumulation_steps * (whole // size)
        text = f"micro-batch {size}, accumulated {steps} times"
        keys = {"micro_batch_size": size, "gradient_accumulation_steps": steps}
        price = "some time: smaller batches fill the GPU less"
        found.append(Change("micro_batch_size", text, keys, "same", price))
    return Kind(tuple(found), is_graded=True)


def _optimizer(plan: FineTunePlan) -> Kind:
    name, _, _ = plan.optimizer.removeprefix("paged_").partition("_")
    if name not in ("adamw", "lion"):
        return Kind(())
    title = {"adamw": "AdamW", "lion": "Lion"}[name]
    eight = f"8-bit {title}", f"{name}_8bit", "states of 8 bits, rounded by blocks"
    paged = f"paged 8-bit {title}", f"paged_{name}_8bit", "as 8 bits; slower where it must page"
    known = {"adamw_8bit": (paged,), "lion_8bit": (paged,)}
    ends = plan.optimizer.startswith("paged_") and plan.optimizer.endswith("8bit")
    offered = () if ends else known.get(plan.optimizer, (eight, paged))
    return Kind(
        tuple(
            Change("optimizer", text, {"optimizer": optimizer}, "nearly", price)
            for text, optimizer, price in offered
        )
    )


def _double_quant(plan: FineTunePlan) -> Kind:
    if plan.quantization not in ("nf4", "fp4") or plan.double_quant:
        return Kind(())
    text, keys = "quantise the 4-bit scales again", {"double_quant": True}
    return Kind((Change("double_quant", text, keys, "nearly", "a little time"),))


def _method(plan: FineTunePlan) -> Kind:
    """LoRA where the model's own weights are trained, then 4-bit weights that stay frozen."""
    lora = "LoRA: train an adapter, freeze the model", _to_method(plan, "lora")
    qlora = "QLoRA: LoRA over 4-bit frozen weights", _to_method(plan, "qlora")
    found = []
    if not plan.uses_adapter:
        price = "less capacity to learn than the weights themselves have"
        found.append(Change("method", *lora, "different", price))
    price = "about a third more time; the frozen weights are rounded to 4 bits"
    if not plan.uses_adapter or plan.method == "lora":
        found.append(Change("method", *qlora, "different", price))
    elif plan.quantization in ("none", "int8"):
        keys = {"quantization": "nf4"}
        found.append(Change("method", "4-bit frozen weights", keys, "different", price))
    return Kind(tuple(found))


def _rank(plan: FineTunePlan) -> Kind:
    """Halved ranks; alpha follows, so that LoRA's scale stays."""
    found = []
    rank = plan.adapter.r // 2
    while plan.method in ("lora", "qlora") and rank >= _LOWEST_RANK:
        alpha = plan.adapter.alpha * rank / plan.adapter.r
        keys = {"adapter.r": rank, "adapter.alpha": alpha}
        price = "less capacity to learn"
        found.append(Change("adapter.r", f"LoRA rank {rank}", keys, "different", price))
        rank //= 2
    return Kind(tuple(found), is_graded=True)


def _targets(plan: FineTunePlan) -> Kind:
    """LoRA on the attention's queries and values alone, as the LoRA paper had it."""
    fewer = ["q_proj", "v_proj"]
    targets = plan.adapter.target_modules
    if plan.method not in ("lora", "qlora") or set(targets) <= set(fewer):
        return Kind(())
    try:
        architecture = Architecture.from_config(resolve_model(plan.model).config)
    except InputError:
        return Kind(())
    if not set(fewer) <= {linear.name.rpartition(".")[2] for linear in architecture.linears}:
        return Kind(())
    text, keys = "LoRA on q_proj and v_proj alone", {"adapter.target_modules": fewer}
    price = "less capacity to learn"
    return Kind((Change("adapter.target_modules", text, keys, "different", price),))


def _length(plan: FineTunePlan) -> Kind:
    longest = (plan.seq_len - 1) // LENGTH_STEP * LENGTH_STEP
    lengths = range(longest, _SHORTEST - 1, -LENGTH_STEP)
    return Kind(_Lengths(lengths), is_graded=True, usual=len(lengths) // 2)


@dataclass(frozen=True, slots=True)
class _Lengths(Sequence[Change]):
    """Shorter examples, made when they are asked for: there can be very many."""

    lengths: range

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        length = self.lengths[index]
        text = f"examples cut to {length:,} tokens"
        price = "what is cut off is not learnt"
        return Change("seq_len", text, {"seq_len": length}, "different", price)


def _to_method(plan: FineTunePlan, method: str) -> dict[str, Any]:
    """Return every key that changes with the method; 4 bits are implied by qlora."""
    then = _flat(under_method(plan, method).to_document())
    now = _flat(plan.to_document())
    changed = {key: value for key, value in then.items() if value != now[key]}
    if changed.get("quantization") == "nf4":
        del changed["quantization"]
    return changed


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    adapter = {f"adapter.{key}": value for key, value in document["adapter"].items()}
    rest = {key: value for key, value in document.items() if key != "adapter"}
    return rest | adapter


KINDS: tuple[KindOf, ...] = (
    _attention,
    _outputs,
    _fused,
    _loss,
    _checkpointing,
    _micro_batch,
    _optimizer,
    _double_quant,
    _method,
    _rank,
    _targets,
    _length,
)
"""What can be changed, each as a function of the plan, in the order of how little it disturbs.

First what leaves the mathematics as it is (what costs no time before what does), then what
approximates it, then another method, a smaller adapter, and last shorter examples.
"""
