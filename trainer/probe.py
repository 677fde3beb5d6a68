"""The probe: a plan's own training step, taken for real and laid beside its estimates."""

from __future__ import annotations

import statistics
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from estimator.bands import MEASURED_MOVED_BY, measured_bands
from estimator.estimate import Device, MemoryEstimate
from estimator.gpu_names import gpu_of_driver
from estimator.gpus import GIB, common_gpus
from estimator.judge import judge_traced
from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from estimator.training_steps import Examples
from estimator.whole_run import StepTimes, WholeRun, whole_run
from trainer.device import choose_device
from trainer.dryrun import dry_run, software_versions
from trainer.find_batch import find_batch
from trainer.measure import Watchers
from trainer.measurement import Measurement
from trainer.real_steps import Setup, Taken, rows_of_data, set_up, take_steps
from trainer.remote_code import runs_code, warning
from trainer.results import OutOfMemory, ProbeRequest, ProbeResult
from trainer.shortage import answered, confirming


@dataclass(frozen=True, slots=True)
class Observer:
    """Who looks on while a probe runs, and may ask it to stop."""

    on_activity: Callable[[str], None]
    on_step: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], bool]


def run_probe(request: ProbeRequest, observer: Observer) -> ProbeResult:
    """Estimate a plan in both ways, then train for some steps and measure.

    Out of memory is a result: it says what was asked, what was there and what would fit. So is
    what was measured before the process was told to end.

    Args:
        request: The plan, data, number of steps, device and memory limit.
        observer: Is told of progress.

    Raises:
        InputError: The plan, the model, the data or the device cannot be used.
        Ended: The process was told to end before anything was measured.
    """
    search = None
    if request.find_batch:  # before CUDA is touched here: every try wants the whole GPU
        search = find_batch(
            request,
            confirming("cuda" if choose_device(request.device).type == "cuda" else "cpu"),
            on_activity=observer.on_activity,
            should_stop=observer.should_stop,
            num_rows=rows_of_data(request),
        )
        size = search.largest or 1  # of which the probe then tells why not even that runs
        plan = request.plan.changed(micro_batch_size=size)
        request = request.model_copy(update={"plan": plan})
    setup = set_up(request)
    kind: Device = "cuda" if setup.device.type == "cuda" else "cpu"
    observer.on_activity("formula")
    formula, refusal = _formula(setup.plan, kind)
    observer.on_activity("dry run")
    dry = _dry_run(setup.plan, kind, trust_remote_code=request.trust_remote_code)
    if kind == "cpu" and dry is not None and request.memory_limit_gib is None:
        _check_room(dry)
    beside: dict[str, Any] = {
        "plan": setup.plan,
        "device": kind,
        "device_name": _device_name(setup.device),
        "weights": "pretrained" if setup.weights.folder else "random",
        "weights_note": setup.weights.note,
        "data": setup.batches.told,
        "dry_run": dry,
        "formula": formula,
        "formula_refusal": refusal,
        "software": software_versions(),
        "remote_code": _remote_code(setup),
        "batch_search": search,
    }
    observer.on_activity(f"building the model ({beside['weights']} weights)")
    watchers = Watchers(observer.on_step, lambda _: None, observer.should_stop)
    taken = take_steps(setup, watchers)
    if isinstance(taken, OutOfMemory):
        observer.on_activity("out of memory: looking for changes that make it fit")
        return ProbeResult(**beside, out_of_memory=answered(taken, setup.plan, setup.device))
    found = taken.measurement
    return ProbeResult(
        **beside,
        measured=_measured_estimate(setup, taken),
        num_steps=len(found.losses),
        first_loss=found.losses[0],
        last_loss=found.losses[-1],
        steps=dict(found.roles),
        step_seconds_median=found.step_seconds_median,
        step_seconds_p95=found.step_seconds_p95,
        tokens_per_step=found.tokens_per_step,
        tokens_per_second=found.tokens_per_second,
        padded_tokens_per_second=found.padded_tokens_per_second,
        lengths=found.lengths,
        timed_peak_bytes=found.timed_peak_bytes,
        gpu_use=found.gpu_use,
        whole_run=_whole_run(setup, found, beside["device_name"]),
        stopped_early=found.stopped_early,
    )


def _remote_code(setup: Setup) -> str:
    ran = setup.request.trust_remote_code and runs_code(setup.facts.config, setup.facts.folder)
    return warning(setup.plan.model) if ran else ""


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _dry_run(plan: FineTunePlan, kind: Device, *, trust_remote_code: bool) -> MemoryEstimate | None:
    """The dry run beside a probe; a step that cannot be traced can still be measured."""
    try:
        return dry_run(plan, device=kind, trust_remote_code=trust_remote_code)
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


def _formula(plan: FineTunePlan, kind: Device) -> tuple[MemoryEstimate | None, str]:
    try:
        return read_formula(plan, device=kind), ""
    except NoFormula as refusal:
        return None, refusal.reason


def _whole_run(setup: Setup, found: Measurement, device_name: str) -> WholeRun | None:
    if not found.step_seconds or found.step_seconds_median is None:
        return None
    batches = setup.batches
    times = StepTimes(
        low=min(found.step_seconds),
        likely=found.step_seconds_median,
        high=found.step_seconds_p95 or max(found.step_seconds),
        optimizer=statistics.median(found.optimizer_seconds),
        num_steps=len(found.step_seconds),
        on_own_data=batches.num_examples is not None,
    )
    examples = None
    if batches.num_examples is not None:
        examples = Examples(batches.num_examples, batches.tokens_per_example, batches.num_rows)
    gpu = gpu_of_driver(device_name) if setup.device.type == "cuda" else None
    return whole_run(setup.plan, times, examples, gpu.name if gpu else None)


def _measured_estimate(setup: Setup, taken: Taken) -> MemoryEstimate:
    found = taken.measurement
    reserved = found.peak_reserved_bytes
    context = None if reserved is None else taken.limits.context_bytes()
    estimate = MemoryEstimate(
        basis="measured",
        plan=setup.plan,
        parameters=taken.counts,
        components_bytes=found.components_bytes,
        phases_bytes=found.phases_bytes,
        peak_phase=found.peak_phase,
        peak_allocated_bytes=found.peak_allocated_bytes,
        peak_reserved_bytes=reserved,
        context_bytes=context,
        total_bytes=None if reserved is None or context is None else reserved + context,
        assumptions=tuple(_assumptions(setup)),
        device="cuda" if setup.device.type == "cuda" else "cpu",
        software=software_versions(),
        seconds=taken.seconds,
    )
    bands = {"bands": measured_bands(estimate), "moved_by": MEASURED_MOVED_BY}
    estimate = estimate.model_copy(update=bands)
    if setup.device.type == "cpu":
        return estimate
    return judge_traced(estimate, (setup.plan.gpu_spec, *common_gpus()))


def _assumptions(setup: Setup) -> Iterator[str]:
    if setup.device.type == "cuda":
        yield "Allocated and reserved are the peaks of PyTorch's caching allocator on this GPU."
    else:
        yield "Allocated is the sum of all live tensor storages; a CPU has no reserved memory."
        yield "Times on a CPU include the recording, and say nothing about a GPU."
    if setup.batches.natural is not None:
        yield (
            f"The peak is that of batches filled up to {setup.plan.seq_len:,} tokens; times are "
            "those of batches as long as their longest example."
        )
    if setup.plan.gradient_accumulation_steps > 2:
        yield "Each step took two micro-steps: more of them need time, and no more memory."
