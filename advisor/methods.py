"""Which way of training fits: each method's memory against the GPU, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

from advisor.answers import Answers
from advisor.bundled import read_bundled
from advisor.rules import Method, MethodChoice, knowledge_base
from estimator.estimate import Component, Fits, MemoryEstimate
from estimator.gpus import GIB, Gpu
from estimator.plan import FineTunePlan, Parallel, parse_plan
from estimator.problems import InputError
from estimator.records import Record

_METHODS: tuple[Method, ...] = ("full", "lora", "qlora")
"""Those that train here, the largest first."""

_SHARDED: dict[str, tuple[Component, ...]] = {
    "none": (),
    "ddp": (),
    "zero1": ("optimizer_states",),
    "zero2": ("optimizer_states", "gradients"),
    "zero3": ("optimizer_states", "gradients", "weights", "adapters", "quantization_state"),
    "fsdp": ("optimizer_states", "gradients", "weights", "adapters", "quantization_state"),
}
"""What each strategy divides among the GPUs (Rajbhandari et al., arXiv 1910.02054, section 5)."""


class MethodVerdict(Record):
    """Whether a method's training step fits, and the numbers that say so.

    ``fits`` is None, with the reason in ``text``, where nothing is known. ``needed_bytes`` is what
    one GPU must hold at the peak, context included. ``blocked`` says why the method cannot be
    taken, where it does not fit.
    """

    method: Method
    fits: Fits | None
    needed_bytes: int | None = None
    gpu: str | None = None
    gpu_memory_bytes: int | None = None
    text: str
    blocked: str | None = None


class Memory(Record):
    """The verdicts, and what they were read for: the scenario's own plan, or a usual one."""

    basis: Literal["plan", "usual"]
    read_for: str
    verdicts: tuple[MethodVerdict, ...]

    def verdict(self, method: Method) -> MethodVerdict | None:
        """Return the verdict on a method, None where it was not read."""
        return next((one for one in self.verdicts if one.method == method), None)


class _Machine(Record):
    gpu: str
    number: int


def read_memory(answers: Answers, plan: FineTunePlan | None) -> Memory | None:
    """Return whether full fine-tuning, LoRA and QLoRA fit the GPU, by the formula.

    Args:
        answers: Their ``gpu`` decides where there is no plan: a machine of that kind and a plan of
            a usual size are taken, both bundled and named in the words.
        plan: The scenario's own plan, read for its own GPU.

    Returns:
        None where nothing says which GPU there is, or where only a host can train.
    """
    if answers.get("weights") == "closed_only":
        return None
    if plan is not None:
        parallel = plan.parallel
        verdicts = _verdicts(plan, parallel.strategy, parallel.data_parallel_size)
        return Memory(basis="plan", read_for="Read for the scenario's own plan.", verdicts=verdicts)
    gpu = answers.get("gpu")
    return _usual_memory(gpu) if isinstance(gpu, str) and gpu != "none" else None


@cache
def _usual_memory(kind: str) -> Memory:
    document = read_bundled("machines")
    machine = _Machine(**document["machines"][kind])
    plan = parse_plan(document["plan"] | {"gpu": machine.gpu})
    verdicts = _verdicts(plan, "zero3", machine.number)
    return Memory(basis="usual", read_for=document["read_for"], verdicts=verdicts)


def _verdicts(plan: FineTunePlan, strategy: str, num_gpus: int) -> tuple[MethodVerdict, ...]:
    # Only where a method is to be judged: the formula is a third of what the advice imports.
    from estimator.compare import compare_methods
    from estimator.memory import NoFormula

    gpu = plan.gpu_spec
    try:
        alone = plan.changed(parallel=Parallel())
        readings = compare_methods(alone, _METHODS, gpus=(gpu,))
    except (NoFormula, InputError) as refusal:
        reason = " ".join(str(refusal).split())
        return tuple(
            MethodVerdict(method=method, fits=None, text=f"The memory is not known. {reason}")
            for method in _METHODS
        )
    return tuple(
        _verdict(method, reading, gpu, strategy, num_gpus)
        for method, reading in zip(_METHODS, readings, strict=True)
    )


def _verdict(
    method: Method, reading: MemoryEstimate, gpu: Gpu, strategy: str, num_gpus: int
) -> MethodVerdict:
    """Judge one reading for one GPU, or one share of it where several divide the states.

    The share keeps activations, logits and temporaries whole, as ZeRO does; what gathering a layer
    and talking to the others take beside them is not counted.
    """
    states = (reading.components_bytes.get(kind) or 0 for kind in _SHARDED[strategy])
    saved_bytes = sum(states) * (num_gpus - 1) // num_gpus
    needed_bytes = reading.smallest_need_bytes - saved_bytes
    fits: Fits = "no"
    if reading.comfortable_need_bytes - saved_bytes <= gpu.memory_bytes:
        fits = "yes"
    elif needed_bytes <= gpu.memory_bytes:
        fits = "tight"
    where = gpu.name if num_gpus == 1 else f"each of {num_gpus} {gpu.name}, under {strategy},"
    words = {"yes": "fits", "tight": "fits only just", "no": "does not fit"}
    text = (
        f"{method_title(method)} {words[fits]}: it needs {needed_bytes / GIB:.1f} GiB, "
        f"and {where} has {gpu.memory_bytes / GIB:.1f} GiB."
    )
    return MethodVerdict(
        method=method,
        fits=fits,
        needed_bytes=needed_bytes,
        gpu=gpu.name if num_gpus == 1 else f"{num_gpus} x {gpu.name}",
        gpu_memory_bytes=gpu.memory_bytes,
        text=text,
        blocked=text if fits == "no" else None,
    )


def method_title(method: Method) -> str:
    """Return a method as people write it."""
    titles = {"full": "Full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}
    return titles.get(method, "Hosted fine-tuning")


def choose_method(
    strategy_id: str, answers: Answers, memory: Memory | None
) -> tuple[Method | None, str]:
    """Return the method for a strategy that trains, and why; None where none fits the GPU.

    The one that suits the answers is taken if it fits with room to spare, else the largest
    smaller one that does, else one that fits only just. Learning a field has no smaller method.
    """
    suited = next(
        one
        for one in knowledge_base().methods
        if one.applies(answers) and (not one.strategies or strategy_id in one.strategies)
    )
    candidates = [suited]
    if not suited.strategies and suited.method != "hosted":
        smaller = knowledge_base().smaller_methods
        place = _METHODS.index(suited.method)
        candidates += [one for one in smaller if _METHODS.index(one.method) > place]
    if memory is None or memory.verdict(suited.method) is None:
        return suited.method, suited.text
    return _best_fit(candidates, memory)


def _best_fit(candidates: Sequence[MethodChoice], memory: Memory) -> tuple[Method | None, str]:
    verdicts = [memory.verdict(one.method) for one in candidates]
    for wanted in (("yes", None), ("tight",)):
        for place, (one, verdict) in enumerate(zip(candidates, verdicts, strict=True)):
            if verdict is not None and verdict.fits in wanted:
                larger = [other.text for other in verdicts[:place] if other is not None]
                return one.method, " ".join([*larger, one.text, verdict.text, memory.read_for])
    told = [one.text for one in verdicts if one is not None]
    return None, " ".join([*told, memory.read_for])
