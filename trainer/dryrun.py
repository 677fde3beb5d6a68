"""The dry run: the trainer's own step on fake tensors, and what an allocator makes of it.

Run as a program it reads a plan (JSON) on stdin and prints the estimate (JSON) on stdout, with
progress on stderr; exit status 2 and a list of problems where the plan cannot be built.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from estimator.estimate import Device, MemoryEstimate, ParameterCounts, Phase
from estimator.from_trace import estimate_from_trace
from estimator.gpu_facts import (
    context_assumption,
    cublas_workspace_bytes,
    cudnn_assumption,
)
from estimator.gpus import common_gpus
from estimator.judge import judge_traced
from estimator.models import beyond_trained_length, resolve_model
from estimator.plan import FineTunePlan, parse_plan
from estimator.problems import InputError
from estimator.splice import NotAlike
from estimator.trace import Trace
from trainer.build import build_training, prepare
from trainer.cuda_semantics import CudaSemantics, fake_tensor_semantics
from trainer.loading import record_load
from trainer.model_notes import model_notes
from trainer.observe import observed_steps
from trainer.quiet import quiet_libraries
from trainer.recorder import StorageRecorder
from trainer.short_model import shorten
from trainer.skeleton import (
    build_skeleton,
    num_parameters,
    pack_on_meta,
    transformers_config,
)
from trainer.step import Batch
from trainer.weights import to_fake
from trainer.workspaces import Workspaces

Progress = Callable[[str], None]


def dry_run(
    plan: FineTunePlan,
    *,
    device: Device = "cuda",
    whole: bool = False,
    trust_remote_code: bool = False,
    on_progress: Progress = lambda _: None,
) -> MemoryEstimate:
    """Return the memory of the plan's step, read from the step itself run on fake tensors.

    Of equal layers a few are run and the others written into the trace, which gives the same
    trace event by event (:mod:`estimator.splice`); where layers turn out not to be alike, all are
    run. Equal to real CPU runs within 0.1 % of the allocated peak (the tests hold it to that); on
    CUDA the known error is that of :mod:`trainer.cuda_semantics` and of the workspaces.

    Args:
        plan: What is trained.
        device: What the step pretends to run on; "cpu" is what a CPU probe is compared with.
        whole: Run every layer, whether or not they are alike.
        trust_remote_code: Let the model's own Python code run.
        on_progress: Told what is being done.

    Raises:
        InputError: The model cannot be found or built.
    """
    started = time.perf_counter()

    def traced_step(*, whole: bool) -> TracedStep:
        return trace_step(
            plan,
            device=device,
            whole=whole,
            trust_remote_code=trust_remote_code,
            on_progress=on_progress,
        )

    try:
        traced = traced_step(whole=whole)
    except NotAlike:
        traced = traced_step(whole=True)
    on_progress("replaying the allocator")
    estimate = estimate_from_trace(plan, traced.trace, traced.counts, device)
    found = {
        "assumptions": (*estimate.assumptions, *traced.assumptions),
        "software": software_versions(),
        "seconds": time.perf_counter() - started,
    }
    estimate = estimate.model_copy(update=found)
    if device == "cpu":
        return estimate
    return judge_traced(estimate, (plan.gpu_spec, *common_gpus()))


@dataclass(frozen=True, slots=True)
class TracedStep:
    """A step's trace, and what has to be said about it."""

    trace: Trace
    counts: ParameterCounts
    assumptions: tuple[str, ...]


def trace_step(
    plan: FineTunePlan,
    *,
    device: Device = "cuda",
    whole: bool = False,
    trust_remote_code: bool = False,
    on_progress: Progress = lambda _: None,
) -> TracedStep:
    """Return the trace of two of the plan's steps; the arguments are those of :func:`dry_run`.

    Raises:
        InputError: The model cannot be found or built.
        NotAlike: The layers look alike and are not; never where ``whole`` is asked for.
    """
    on_cuda = device == "cuda"
    on_progress("laying out the model")
    facts = resolve_model(plan.model)
    config = transformers_config(facts.config, plan.model, trust_remote_code=trust_remote_code)
    base = build_skeleton(plan, config, plan.model)
    pack_on_meta(base, plan)
    num_base = num_parameters(base)
    model = prepare(base, plan)
    mode = FakeTensorMode()
    to_fake(model, mode)
    recorder = StorageRecorder(vocab_size=config.get_text_config().vocab_size)
    workspaces = Workspaces(recorder, cublas_workspace_bytes(plan.gpu_spec))
    semantics = CudaSemantics(plan, workspaces.take)
    short = None if whole else shorten(model, recorder)

    def enter(phase: Phase) -> None:
        on_progress(f"tracing {phase}")
        if short:
            short.enter(phase)

    with mode, fake_tensor_semantics(recorder.forget if on_cuda else None):
        record_load(recorder, model, plan, straight=on_cuda and plan.device_map_load)
        training = build_training(model, plan, on_cuda=on_cuda)
        with contextlib.ExitStack() as contexts:
            contexts.enter_context(recorder)
            if on_cuda:
                contexts.enter_context(semantics.active())
            if short:
                contexts.enter_context(short.active())
            for _ in observed_steps(
                training, _fake_batches(plan), recorder, on_cuda=on_cuda, on_phase=enter
            ):
                pass
            if on_cuda:
                semantics.verify(model, 1 + plan.micro_steps_taken)
    recorder.stop_tracing()  # what dies from here on dies with this function
    trainable = sum(parameter.numel() for parameter in training.parameters)
    return TracedStep(
        short.whole_trace() if short else recorder.trace,
        ParameterCounts(total=num_base, trainable=trainable),
        (*_assumptions(plan, facts.config, device, semantics), *model_notes(model, plan)),
    )


def software_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a step allocates."""
    return {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}


def _assumptions(
    plan: FineTunePlan, config: dict[str, Any], device: Device, semantics: CudaSemantics
) -> Iterator[str]:
    yield (
        "Read from the training step itself, run on fake tensors; peak allocated is what "
        "torch.cuda.max_memory_allocated would show."
        if device == "cuda"
        else "Read from the training step itself, run on fake tensors with the CPU's kernels."
    )
    yield f"Every example is {plan.seq_len} tokens long; shorter ones need less."
    if beyond := beyond_trained_length(plan, config):
        yield beyond
    if plan.gradient_accumulation_steps > 2:
        yield "Two micro-steps were run: more of them need no more memory."
    if device == "cpu":
        return
    kernels = ", ".join(sorted(semantics.attention_calls)) or "eager"
    yield f"Attention runs on the {kernels} kernel on {plan.gpu_spec.name}."
    if cudnn := cudnn_assumption(kernels, plan.gpu_spec):
        yield cudnn
    yield context_assumption(plan.gpu_spec)
    yield (
        "Reserved memory assumes PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True."
        if plan.expandable_segments
        else "Reserved memory assumes the default caching allocator, without expandable segments."
    )
    if plan.optimizer.startswith("paged_"):
        yield (
            "Large states of a paged optimizer are left out: they lie in managed memory, which "
            "the driver moves to the host when the GPU runs short."
        )
    if plan.quantization == "int8":
        yield "No outlier columns: LLM.int8() keeps a few activation columns in 16 bits as well."
    if not plan.gpu_spec.has_bf16 and "bf16" in (plan.weights_dtype, plan.autocast_dtype):
        yield f"{plan.gpu_spec.name} has no bf16 arithmetic: it runs slowly; fp16 is usual there."


def _fake_batches(plan: FineTunePlan) -> Iterator[Batch]:
    """Yield micro-batches; called within the fake mode, so they hold no values."""
    shape = (plan.micro_batch_size, plan.seq_len)
    while True:
        ids = torch.zeros(shape, dtype=torch.long)
        batch = {"input_ids": ids, "labels": torch.zeros(shape, dtype=torch.long)}
        if plan.padded:
            batch["attention_mask"] = torch.ones(shape, dtype=torch.long)
        yield batch
        del ids, batch


def _tell(text: str) -> None:
    sys.stderr.write(f"progress: {text}\n")
    sys.stderr.flush()


def main() -> int:
    """Read a plan on stdin, print its estimate on stdout."""
    quiet_libraries()
    request = json.load(sys.stdin)
    try:
        plan = parse_plan(request["plan"])
        result = dry_run(plan, device=request["device"], on_progress=_tell)
    except InputError as error:
        fields = ("where", "what", "allowed", "fix")
        problems = [{name: getattr(one, name) for name in fields} for one in error.problems]
        json.dump({"problems": problems}, sys.stdout)
        return 2
    sys.stdout.write(result.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
