"""What a probe needs to find on this machine, told apart from torch and before a run is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from estimator import hub
from estimator.architecture import Architecture, NotModelled
from estimator.documents import read_document
from estimator.memory import NoFormula, read_formula
from estimator.models import ResolvedModel, resolve_model
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem, problems_of
from trainer.machine import describe_machine
from trainer.not_built import refuse_what_is_not_built
from trainer.pickles import has_safetensors
from trainer.results import Device, ProbeRequest

LEAST_CPU_LIMIT_GIB = 0.25
"""With less, Python itself falls over before a tensor is refused."""

CPU_OVERHEAD_BYTES = 80 * 2**20
"""What a worker on a CPU takes beside its tensors once its limit is set: the model's code that
transformers then imports, the stacks of threads, buffers within operations. Between 52 and 70 MiB
were measured with the bundled tiny Llama, whatever its batch."""

_INDEX = "model.safetensors.index.json"
_SAYS_NOTHING = "Memory and speed are those of real weights; the loss says nothing."


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """A model's weights on this machine: None where random ones take their place, and why."""

    folder: Path | None
    note: str


def model_folder(facts: ResolvedModel) -> Path | None:
    """Return where a model's files lie here: its folder, or the Hub's local cache."""
    return facts.folder or hub.cached_model(facts.name)


def find_weights(facts: ResolvedModel) -> FoundWeights:
    """Return the safetensors weights of a model, if this machine has all of them.

    Raises:
        InputError: The model is a folder whose only weights are pickles.
    """
    folder = model_folder(facts)
    if folder is None:
        what = f"no weights of {facts.name} are on this machine, in no folder and no Hub cache"
        return FoundWeights(None, f"Random weights: {what}. {_SAYS_NOTHING}")
    try:
        has_weights = has_safetensors(folder)
    except InputError:
        if facts.folder is not None:
            raise
        what = "the Hub's cache holds its weights as pickles alone, which are not read"
        return FoundWeights(None, f"Random weights: {what}. {_SAYS_NOTHING}")
    if not has_weights:
        return FoundWeights(None, f"Random weights: {folder} holds none. {_SAYS_NOTHING}")
    if missing := _missing_shards(folder):
        what = f"{len(missing)} files of the weights are missing ({missing[0]}, ...)"
        return FoundWeights(None, f"Random weights: {what}. {_SAYS_NOTHING}")
    origin = "the Hub's local cache" if facts.folder is None else str(folder)
    return FoundWeights(folder, f"Pretrained weights, from {origin}.")


def _missing_shards(folder: Path) -> list[str]:
    """Return the files that an index names and that are not there: a download that broke off."""
    index = folder / _INDEX
    if not index.exists():
        return []
    try:
        names = set(read_document(index)["weight_map"].values())
    except (KeyError, AttributeError, json.JSONDecodeError) as error:
        what = "is damaged: it names no files"
        raise InputError(Problem(str(index), what, fix="download the model again")) from error
    return sorted(name for name in names if not (folder / name).exists())


def tokenizer_folder(facts: ResolvedModel) -> Path:
    """Return the folder of a model's tokenizer.

    Raises:
        InputError: This machine has none.
    """
    folder = model_folder(facts)
    if folder is None or not (folder / "tokenizer_config.json").exists():
        what = f"there is no tokenizer on this machine for {facts.name}"
        fix = "set model to a folder with its tokenizer, or leave the data out"
        raise InputError(Problem("model", what, fix=fix))
    return folder


def input_problems(request: ProbeRequest) -> list[Problem]:
    """Return what the worker would find wrong with a request, short of building the model."""
    return problems_of(_checks(request))


def _checks(request: ProbeRequest) -> Iterator[Callable[[], object]]:
    plan = request.plan
    yield lambda: find_weights(resolve_model(plan.model))
    yield lambda: _check_readable(plan)
    yield lambda: _check_modules(plan)
    yield lambda: refuse_what_is_not_built(plan)
    yield lambda: check_limit(request.memory_limit_gib, request.device)
    yield lambda: _check_find_batch(request)
    if request.data_path or plan.data.path:
        yield lambda: tokenizer_folder(resolve_model(plan.model))


def _check_modules(plan: FineTunePlan) -> None:
    """Refuse what the model has no part for, where its architecture is known without torch."""
    try:
        architecture = Architecture.from_config(resolve_model(plan.model).config)
    except NotModelled:
        return
    modules = (*architecture.layer, *architecture.rest)
    problems: list[Problem] = []
    targets = plan.adapter.target_modules
    names = dict.fromkeys(module.name.rpartition(".")[2] for module in modules)
    if plan.method in ("lora", "qlora") and targets != "all-linear" and not set(targets) & {*names}:
        what = f"this model has none of {', '.join(targets)}"
        problems.append(Problem("adapter.target_modules", what, ", ".join(names), "name others"))
    if plan.method == "bitfit" and not any(
        name == "bias" for module in modules for name, _ in module.tensors
    ):
        what = "bitfit trains biases, and this model has none"
        problems.append(Problem("method", what, fix="use lora, or a model with biases"))
    if problems:
        raise InputError(problems)


def _check_readable(plan: FineTunePlan) -> None:
    """The formula reads the plan's model and its step."""
    try:
        read_formula(plan)
    except NoFormula:
        return


def _check_find_batch(request: ProbeRequest) -> None:
    if request.find_batch and request.memory_limit_gib is None and _runs_on_cpu(request.device):
        what = "on a CPU there is no memory to fill: the machine would run out of its own"
        fix = "name a bound with --memory-limit, or run it on a GPU"
        raise InputError(Problem("--find-batch", what, fix=fix))


def check_limit(limit_gib: float | None, device: Device) -> None:
    """Refuse a limit with which nothing can run.

    Raises:
        InputError: It is too small for a worker on a CPU.
    """
    if limit_gib is not None and limit_gib < LEAST_CPU_LIMIT_GIB and _runs_on_cpu(device):
        what = f"{limit_gib} GiB is too little for a worker on a CPU"
        allowed = f"{LEAST_CPU_LIMIT_GIB} or more"
        raise InputError(Problem("--memory-limit", what, allowed, "raise it, or leave it out"))


def _runs_on_cpu(device: Device) -> bool:
    return device == "cpu" or (device == "auto" and not describe_machine().gpus)
