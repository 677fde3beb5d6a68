"""The probe: a plan's own training step, taken for real and laid beside its estimates."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from estimator.bands import MEASURED_MOVED_BY, measured_bands
from estimator.estimate import MemoryEstimate, ParameterCounts, Phase
from estimator.fit import changes_that_fit
from estimator.gpus import GIB, Gpu, common_gpus
from estimator.judge import judge_traced
from estimator.memory import NoFormula, read_formula
from estimator.models import ResolvedModel, resolve_model
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer.attention import chosen_attention
from trainer.build import build_training, prepare
from trainer.data import endless_batches, random_batches
from trainer.device import Limits, choose_device, driver_used_bytes, limited_memory
from trainer.dryrun import dry_run, software_versions
from trainer.examples import PROBE_EXAMPLES, open_examples
from trainer.measure import Measurement, measure_steps
from trainer.pickles import has_safetensors
from trainer.remote_code import runs_code, warning
from trainer.results import Change, OutOfMemory, ProbeRequest, ProbeResult
from trainer.skeleton import build_skeleton, num_parameters, transformers_config
from trainer.step import Batch
from trainer.tokenized import tokenize_data
from trainer.untyped import transformers
from trainer.weights import fill_at_random, load_pretrained

Weights = Literal["random", "pretrained"]


@dataclass(frozen=True, slots=True)
class Observer:
    """Who looks on while a probe runs, and may ask it to stop."""

    on_activity: Callable[[str], None]
    on_step: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], bool]


def run_probe(request: ProbeRequest, observer: Observer) -> ProbeResult:
    """Estimate a plan in both ways, then train for some steps and measure.

    Out of memory is a result: it says what was asked, what was there and what would fit.

    Args:
        request: The plan, data, number of steps, device and memory limit.
        observer: Is told of progress.

    Raises:
        InputError: The plan, the model, the data or the device cannot be used.
    """
    device = choose_device(request.device)
    used_before_bytes = driver_used_bytes(device)
    plan = _plan_here(request.plan, device)
    facts = resolve_model(plan.model)
    batches, data = _batches(request, plan, facts, device)
    weights: Weights = "pretrained" if _has_weights(facts.folder) else "random"
    observer.on_activity("formula")
    formula, refusal = _formula(plan, device)
    observer.on_activity("dry run")
    dry = _dry_run(plan, device, trust_remote_code=request.trust_remote_code)
    if device.type == "cpu" and dry is not None and request.memory_limit_gib is None:
        _check_room(dry)
    beside: dict[str, Any] = {
        "plan": plan,
        "device": device.type,
        "device_name": _device_name(device),
        "weights": weights,
        "data": data,
        "dry_run": dry,
        "formula": formula,
        "formula_refusal": refusal,
        "software": software_versions(),
        "remote_code": _remote_code(request, facts),
    }
    reached: dict[str, Phase] = {"phase": "load"}
    with limited_memory(device, request.memory_limit_gib, used_before_bytes) as limits:
        try:
            measurement, counts, seconds = _measure(
                request, plan, facts, weights, batches, device, observer, reached
            )
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is one
            shortage = _out_of_memory(error, plan, limits, reached["phase"])
            if shortage is None:
                raise
            return ProbeResult(**beside, out_of_memory=shortage)
    return ProbeResult(
        **beside,
        measured=_measured_estimate(plan, measurement, counts, device, limits, seconds),
        num_steps=len(measurement.losses),
        first_loss=measurement.losses[0],
        last_loss=measurement.losses[-1],
        step_seconds_median=measurement.step_seconds_median,
        tokens_per_second=measurement.tokens_per_second,
        stopped_early=measurement.stopped_early,
    )


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


def _remote_code(request: ProbeRequest, facts: ResolvedModel) -> str:
    ran = request.trust_remote_code and runs_code(facts.config, facts.folder)
    return warning(request.plan.model) if ran else ""


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _dry_run(
    plan: FineTunePlan, device: torch.device, *, trust_remote_code: bool
) -> MemoryEstimate | None:
    """The dry run beside a probe; a step that cannot be traced can still be measured."""
    try:
        return dry_run(
            plan,
            device="cuda" if device.type == "cuda" else "cpu",
            trust_remote_code=trust_remote_code,
        )
    except InputError:
        raise
    except Exception:  # noqa: BLE001  whatever tracing met, it is in the log
        traceback.print_exc()
        return None


def _check_room(dry: MemoryEstimate) -> None:
    """Refuse on a CPU what would bring the whole machine to its knees before it fails."""
    available = psutil.virtual_memory().available
    if dry.peak_allocated_bytes > available:
        needed, free = dry.peak_allocated_bytes / GIB, available / GIB
        what = f"a probe on this CPU needs {needed:.1f} GiB, and the machine has {free:.1f} GiB"
        fix = "probe a smaller model, a shorter seq_len, or on a GPU"
        raise InputError(Problem("plan", what, fix=fix))


def _formula(plan: FineTunePlan, device: torch.device) -> tuple[MemoryEstimate | None, str]:
    try:
        return read_formula(plan, device="cuda" if device.type == "cuda" else "cpu"), ""
    except NoFormula as refusal:
        return None, refusal.reason


def _has_weights(folder: Path | None) -> bool:
    return folder is not None and has_safetensors(folder)


def _batches(
    request: ProbeRequest, plan: FineTunePlan, facts: ResolvedModel, device: torch.device
) -> tuple[Iterator[Batch], str]:
    """Return the probe's batches and what they are made of, in words."""
    config = _config(request, facts)  # before the tokenizer, which says less of what is wrong
    path = request.data_path or plan.data.path
    if path is None:
        vocab_size = config.get_text_config().vocab_size
        return random_batches(plan, vocab_size, device), "random tokens"
    source = open_examples(path, plan.data.format)
    source.check(PROBE_EXAMPLES)
    if facts.folder is None or not (facts.folder / "tokenizer_config.json").exists():
        what = f"there is no tokenizer on this machine for {plan.model}"
        fix = "set model to a folder with its tokenizer, or leave the data out"
        raise InputError(Problem("model", what, fix=fix))
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        facts.folder, local_files_only=True, trust_remote_code=request.trust_remote_code
    )
    with tempfile.TemporaryDirectory() as folder:  # what is open in it can be read to the end
        data = tokenize_data(source, tokenizer, plan, Path(folder), limit=PROBE_EXAMPLES)
    told = f"{data.summary.num_examples:,} examples of {Path(path).name}"
    return endless_batches(data.train, plan, tokenizer, device, full_length=True), told


def _config(request: ProbeRequest, facts: ResolvedModel) -> Any:
    trusted = request.trust_remote_code
    return transformers_config(facts.config, request.plan.model, trust_remote_code=trusted)


def _measure(
    request: ProbeRequest,
    plan: FineTunePlan,
    facts: ResolvedModel,
    weights: Weights,
    batches: Iterator[Batch],
    device: torch.device,
    observer: Observer,
    reached: dict[str, Phase],
) -> tuple[Measurement, ParameterCounts, float]:
    started = time.perf_counter()
    observer.on_activity(f"building the model ({weights} weights)")
    torch.manual_seed(0)
    config = _config(request, facts)
    if weights == "pretrained" and facts.folder is not None:
        base = load_pretrained(facts.folder, config, plan, device)
    else:
        base = build_skeleton(plan, config, plan.model)
        fill_at_random(base, plan, device)
    num_base = num_parameters(base)
    model = prepare(base, plan).to(device)
    training = build_training(model, plan, on_cuda=device.type == "cuda")
    with chosen_attention(plan, device):
        measurement = measure_steps(
            training,
            batches,
            device,
            num_steps=request.num_steps,
            on_step=observer.on_step,
            on_phase=lambda phase: reached.update(phase=phase),
            should_stop=observer.should_stop,
        )
    num_trained = sum(parameter.numel() for parameter in training.parameters)
    counts = ParameterCounts(total=num_base, trainable=num_trained)
    return measurement, counts, time.perf_counter() - started


def _measured_estimate(
    plan: FineTunePlan,
    measurement: Measurement,
    counts: ParameterCounts,
    device: torch.device,
    limits: Limits,
    seconds: float,
) -> MemoryEstimate:
    reserved = measurement.peak_reserved_bytes
    context = None if reserved is None else limits.context_bytes()
    estimate = MemoryEstimate(
        basis="measured",
        plan=plan,
        parameters=counts,
        components_bytes=measurement.components_bytes,
        phases_bytes=measurement.phases_bytes,
        peak_phase=measurement.peak_phase,
        peak_allocated_bytes=measurement.peak_allocated_bytes,
        peak_reserved_bytes=reserved,
        context_bytes=context,
        total_bytes=None if reserved is None or context is None else reserved + context,
        assumptions=tuple(_assumptions(plan, device)),
        device="cuda" if device.type == "cuda" else "cpu",
        software=software_versions(),
        seconds=seconds,
    )
    bands = {"bands": measured_bands(estimate), "moved_by": MEASURED_MOVED_BY}
    estimate = estimate.model_copy(update=bands)
    if device.type == "cpu":
        return estimate
    return judge_traced(estimate, (plan.gpu_spec, *common_gpus()))


def _assumptions(plan: FineTunePlan, device: torch.device) -> Iterator[str]:
    if device.type == "cuda":
        yield "Allocated and reserved are the peaks of PyTorch's caching allocator on this GPU."
    else:
        yield "Allocated is the sum of all live tensor storages; a CPU has no reserved memory."
        yield "Times on a CPU include the recording, and say nothing about a GPU."
    if plan.gradient_accumulation_steps > 2:
        yield "Each step took two micro-steps: more of them need time, and no more memory."


def _out_of_memory(
    error: Exception, plan: FineTunePlan, limits: Limits, phase: Phase
) -> OutOfMemory | None:
    """Return what ran short, or None where the error is about something else."""
    shortage = limits.shortage(error, phase)
    if shortage is None:
        return None
    kind = "cuda" if limits.device.type == "cuda" else "cpu"
    capacity_bytes = shortage.capacity_bytes
    found = changes_that_fit(plan, capacity_bytes, device=kind) if capacity_bytes else ()
    changes = tuple(
        Change(override=change.override, peak_allocated_bytes=change.peak_allocated_bytes)
        for change in found
    )
    return shortage.model_copy(update={"changes": changes})
