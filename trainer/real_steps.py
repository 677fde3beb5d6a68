"""A plan's training steps taken for real: on which device and data, and with what outcome."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from estimator.estimate import ParameterCounts, Phase
from estimator.gpus import GIB, Gpu
from estimator.models import ResolvedModel, resolve_model
from estimator.plan import FineTunePlan
from trainer.attention import chosen_attention
from trainer.build import build_training, prepare
from trainer.data import endless_batches, random_batches
from trainer.device import Limits, choose_device, driver_used_bytes, gpu_uuid, limited_memory
from trainer.examples import PROBE_EXAMPLES, ExampleSource, open_examples
from trainer.gpu_meter import GpuMeter
from trainer.measure import Batches, Watchers, measure_steps
from trainer.measurement import Measurement
from trainer.probe_inputs import FoundWeights, find_weights, tokenizer_folder
from trainer.results import OutOfMemory, ProbeRequest
from trainer.skeleton import build_skeleton, num_parameters, transformers_config
from trainer.tokenized import DataSummary, tokenize_data
from trainer.untyped import transformers
from trainer.weights import fill_at_random, load_pretrained


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that steps need before memory is taken for them.

    Attributes:
        plan: As asked for, on the GPU that is really there.
        config: transformers' own configuration of the model.
        used_before_bytes: What all processes used of the GPU before this one touched it.
    """

    request: ProbeRequest
    plan: FineTunePlan
    facts: ResolvedModel
    config: Any
    weights: FoundWeights
    batches: Batches
    device: torch.device
    used_before_bytes: int | None


@dataclass(frozen=True, slots=True)
class Taken:
    """Steps that were taken, and how long it took to build the model and take them."""

    measurement: Measurement
    counts: ParameterCounts
    limits: Limits
    seconds: float


def set_up(request: ProbeRequest) -> Setup:
    """Find device, model, weights and data for a request.

    Raises:
        InputError: One of them cannot be used.
    """
    device = choose_device(request.device)
    used_before_bytes = driver_used_bytes(device)
    plan = _plan_here(request.plan, device)
    facts = resolve_model(plan.model)
    config = transformers_config(
        facts.config, plan.model, trust_remote_code=request.trust_remote_code
    )  # before the tokenizer, which says less of what is wrong
    return Setup(
        request=request,
        plan=plan,
        facts=facts,
        config=config,
        weights=find_weights(facts),
        batches=_batches(request, plan, facts, config, device),
        device=device,
        used_before_bytes=used_before_bytes,
    )


def rows_of_data(request: ProbeRequest) -> int | None:
    """Return how many rows a request's data fills, None without data; CUDA stays untouched.

    Raises:
        InputError: The model or the data cannot be used.
    """
    if (request.data_path or request.plan.data.path) is None:
        return None
    plan, facts = request.plan, resolve_model(request.plan.model)
    return _batches(request, plan, facts, None, torch.device("cpu")).num_rows


def take_steps(setup: Setup, watchers: Watchers) -> Taken | OutOfMemory:
    """Build the model and take the request's steps; out of memory is an outcome.

    Raises:
        Ended: The process was told to end before anything was measured.
    """
    reached: dict[str, Phase] = {"phase": "load"}

    def on_phase(phase: Phase) -> None:
        reached["phase"] = phase
        watchers.on_phase(phase)

    told = Watchers(watchers.on_step, on_phase, watchers.should_stop)
    limit = setup.request.memory_limit_gib
    with limited_memory(setup.device, limit, setup.used_before_bytes) as limits:
        try:
            return _take(setup, limits, told)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is one
            shortage = limits.shortage(error, reached["phase"])
            if shortage is None:
                raise
            return shortage


def _take(setup: Setup, limits: Limits, watchers: Watchers) -> Taken:
    started = time.perf_counter()
    torch.manual_seed(0)
    plan, device, folder = setup.plan, setup.device, setup.weights.folder
    if folder is not None:
        base = load_pretrained(folder, setup.config, plan, device)
    else:
        base = build_skeleton(plan, setup.config, plan.model)
        fill_at_random(base, plan, device)
    num_base = num_parameters(base)
    model = prepare(base, plan).to(device)
    training = build_training(model, plan, on_cuda=device.type == "cuda")
    with chosen_attention(plan, device):
        measurement = measure_steps(
            training,
            setup.batches,
            device,
            GpuMeter(gpu_uuid(device)),
            num_steps=setup.request.num_steps,
            watchers=watchers,
        )
    num_trained = sum(parameter.numel() for parameter in training.parameters)
    counts = ParameterCounts(total=num_base, trainable=num_trained)
    return Taken(measurement, counts, limits, time.perf_counter() - started)


def _plan_here(plan: FineTunePlan, device: torch.device) -> FineTunePlan:
    """The plan on the GPU that is really there: its generation decides kernels."""
    if device.type == "cpu":
        return plan
    properties = torch.cuda.get_device_properties(device)
    gpu = Gpu(
        name=properties.name,
        memory_gib=properties.total_memory / GIB,
        compute_capability=float(f"{properties.major}.{properties.minor}"),
        has_bf16=properties.major >= 8,
        source="this machine's driver",
    )
    return plan.changed(gpu=gpu)


def _batches(
    request: ProbeRequest,
    plan: FineTunePlan,
    facts: ResolvedModel,
    config: Any,
    device: torch.device,
) -> Batches:
    path = request.data_path or plan.data.path
    if path is None:
        vocab_size = config.get_text_config().vocab_size
        return Batches(random_batches(plan, vocab_size, device), None, "random tokens")
    source = open_examples(path, plan.data.format)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        tokenizer_folder(facts),
        local_files_only=True,
        trust_remote_code=request.trust_remote_code,
    )
    with tempfile.TemporaryDirectory() as folder:  # what is open in it can be read to the end
        data = tokenize_data(source, tokenizer, plan, Path(folder), limit=PROBE_EXAMPLES)
    full, natural = (
        endless_batches(data.train, plan, tokenizer, device, full_length=is_full)
        for is_full in (True, False)
    )
    num_examples = _count(source, data.summary, plan)
    return Batches(
        full=full,
        natural=natural if plan.padded else None,
        told=f"{num_examples:,} example{'s' * (num_examples != 1)} of {Path(path).name}",
        num_examples=num_examples,
        tokens_per_example=data.summary.tokens_per_example,
        num_rows=round(data.summary.num_train_rows * num_examples / data.summary.num_examples),
    )


def _count(source: ExampleSource, summary: DataSummary, plan: FineTunePlan) -> int:
    """Return how many examples there are, beyond those that a probe reads."""
    if summary.num_examples < PROBE_EXAMPLES:
        return summary.num_examples
    return plan.data.num_examples or sum(1 for _ in source.rows())
