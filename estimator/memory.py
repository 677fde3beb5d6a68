"""The formula reading: a step's memory from the architecture's shapes alone, without torch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from estimator.architecture import Architecture, NotModelled
from estimator.bands import formula_bands, formula_moved_by
from estimator.blocks import block, exact
from estimator.estimate import COMPONENTS, Device, MemoryEstimate, ParameterCounts, Phase
from estimator.gpu_facts import (
    context_assumption,
    context_bytes,
    cublas_workspace_bytes,
    cudnn_assumption,
    largest_efficient_head,
)
from estimator.gpus import Gpu, common_gpus
from estimator.layer_forms import LayerForm, layer_form
from estimator.models import beyond_trained_length, resolve_model
from estimator.plan import BYTES_PER_VALUE, FineTunePlan
from estimator.refusals import kernel_on, kernel_refusal, not_described, refusals
from estimator.states import read_states
from estimator.step_forms import Bytes, Parts, step_forms
from estimator.structure import dimensions, structure_of

_MAX_MODELS = 256


class NoFormula(Exception):
    """The formula does not hold for a plan; ``reason`` is one plain sentence that says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def read_formula(
    plan: FineTunePlan, *, device: Device = "cuda", gpus: Sequence[Gpu] = ()
) -> MemoryEstimate:
    """Return the memory of the plan's step, worked out operation by operation.

    The step's operations are written down for two layers, every further layer adds what the
    second did, and the states are added to the byte. What was written down holds for any sizes:
    a phase's peak is the largest of a few sums over them (:mod:`estimator.step_forms`). Peak
    allocated only: what the allocator holds beyond that depends on the order of events, which
    the dry run replays.

    Known error: within 1 % of the dry run on 200 plans drawn over the families of
    :func:`~estimator.layer_forms.described_types`; the bytes in live tensors within 0.05 % in
    most. The allocator's rests are counted for storages from 10 MiB on (:mod:`estimator.blocks`);
    those of smaller ones are not, which puts models under a few hundred MiB up to 2 % low.
    Several gradients of tied embeddings are added in place where each went through a cast of its
    own, else out of place, as PyTorch does.

    Args:
        plan: What is trained.
        device: On a CPU there are no cuBLAS workspaces, and there is no GPU to fit.
        gpus: What to judge the step against, in place of the plan's GPU and the common ones. Each
            is judged by what the step takes there, with that GPU's attention kernel and
            workspace; where that is not described, the GPU is left out and an assumption says so.

    Raises:
        NoFormula: The plan asks for something that is not described here; the dry run reads it.
        InputError: The model cannot be found, or its configuration is wrong.
    """
    started = time.perf_counter()
    model = resolve_model(plan.model)
    try:
        architecture, form = _model(model.config)
    except NotModelled as error:
        reason = f"The formula does not describe {error.model_type} models: it {error.reason}."
        raise NoFormula(reason) from error
    if form is None:
        raise NoFormula(not_described(model.config))
    reason = next(refusals(plan, model.config, architecture, form), None)
    if reason:
        raise NoFormula(reason)
    reading = _Reading(plan, architecture, form, device, model.config)
    phases = reading.phases(plan.gpu_spec)
    peak_phase = max(phases, key=lambda phase: sum(phases[phase].values()))
    peak = phases[peak_phase]
    estimate = MemoryEstimate(
        basis="formula",
        plan=plan,
        parameters=ParameterCounts(
            total=architecture.num_parameters, trainable=reading.states.num_trainable
        ),
        components_bytes={component: peak.get(component, 0) for component in COMPONENTS},
        phases_bytes={phase: sum(parts.values()) for phase, parts in phases.items()},
        peak_phase=peak_phase,
        peak_allocated_bytes=sum(peak.values()),
        assumptions=tuple(_assumptions(plan, model.config, reading.kernel(plan.gpu_spec), device)),
        device=device,
        seconds=time.perf_counter() - started,
    )
    estimate = estimate.model_copy(
        update={
            "bands": formula_bands(estimate),
            "moved_by": formula_moved_by(plan, on_cuda=device == "cuda"),
        }
    )
    if device == "cpu":
        return estimate
    wanted = {gpu.name: gpu for gpu in gpus or (plan.gpu_spec, *common_gpus())}
    fits, left_out = [], []
    there: dict[int, MemoryEstimate] = {}  # by what the step needs on a GPU
    for gpu in wanted.values():
        if kernel_refusal(reading.kernel(gpu)):
            left_out.append(gpu)
            continue
        peak_bytes = reading.peak_bytes(gpu)
        if peak_bytes not in there:
            there[peak_bytes] = estimate.model_copy(update={"peak_allocated_bytes": peak_bytes})
        fits.append(there[peak_bytes].fit(gpu))
    more = tuple(_about_gpus(reading, list(wanted.values()), left_out))
    found: dict[str, Any] = {"gpus": tuple(fits), "assumptions": estimate.assumptions + more}
    return estimate.model_copy(update=found | {"seconds": time.perf_counter() - started})


_MODELS: dict[int, tuple[dict[str, Any], Architecture, LayerForm | None]] = {}
"""What the configurations read last describe, by identity: a bundled one is always the same."""


def _model(config: dict[str, Any]) -> tuple[Architecture, LayerForm | None]:
    known = _MODELS.get(id(config))
    if known is None:
        if len(_MODELS) >= _MAX_MODELS:
            _MODELS.clear()
        known = config, Architecture.from_config(config), layer_form(config)
        _MODELS[id(config)] = known
    return known[1:]


class _Reading:
    """A plan's step on any GPU; evaluated once for each attention kernel."""

    def __init__(
        self,
        plan: FineTunePlan,
        architecture: Architecture,
        form: LayerForm,
        device: Device,
        config: dict[str, Any],
    ) -> None:
        self.form = form
        self.plan = plan
        self.architecture = architecture
        self.head_dim = architecture.head_dim
        self.on_cuda = device == "cuda"
        self.states = read_states(plan, architecture, form, on_cuda=self.on_cuda)
        dims = dimensions(plan, architecture, config)
        self.bytes_of = Bytes(dims, block if self.on_cuda else exact)
        self._totals: dict[int, list[int]] = {}
        self._kernels: dict[str, str | None] = {}
        self._by_structure: dict[tuple[str | None, bool], dict[Phase, Parts]] = {}

    def kernel(self, gpu: Gpu) -> str | None:
        """Return the attention kernel that the step takes on a GPU."""
        if gpu.name not in self._kernels:
            self._kernels[gpu.name] = kernel_on(self.plan, gpu, self.architecture, self.form)
        return self._kernels[gpu.name]

    def phases(self, gpu: Gpu) -> dict[Phase, Parts]:
        """Return the fullest moment of each phase of the second step, when all states exist."""
        phases = self._without_workspaces(gpu)
        workspace = self._workspaces_bytes(gpu)
        return {
            phase: parts if phase == "load" else _sum(parts, {"workspace": workspace})
            for phase, parts in phases.items()
        }

    def peak_bytes(self, gpu: Gpu) -> int:
        """Return the step's peak on a GPU."""
        phases = self._without_workspaces(gpu)
        if id(phases) not in self._totals:
            self._totals[id(phases)] = [sum(parts.values()) for parts in phases.values()]
        load, *others = self._totals[id(phases)]
        return max(load, max(others) + self._workspaces_bytes(gpu))

    def _kept_logits_bytes(self) -> int:
        """A hand-written loop's outputs, which live until the next ones take their name."""
        if not self.plan.keep_outputs:
            return 0
        in_16_bits = self.plan.autocast_dtype != "none"
        stored = 4 if self.plan.prepares_kbit else BYTES_PER_VALUE[self.plan.weights_dtype]
        size = ("tokens", "vocab"), 2 if in_16_bits else stored
        return self.bytes_of[size, ""]

    def _workspaces_bytes(self, gpu: Gpu) -> int:
        """Forward and backward run on threads of their own, with a workspace each."""
        return 2 * cublas_workspace_bytes(gpu) if self.on_cuda else 0

    def _without_workspaces(self, gpu: Gpu) -> dict[Phase, Parts]:
        kernel = self.kernel(gpu)
        key = kernel, kernel == "efficient" and largest_efficient_head(gpu) < self.head_dim
        if key not in self._by_structure:
            self._by_structure[key] = self._with_kernel(kernel, gpu)
        return self._by_structure[key]

    def _with_kernel(self, kernel: str | None, gpu: Gpu) -> dict[Phase, Parts]:
        states = self.states
        forms = step_forms(structure_of(self.plan, self.architecture, self.form, kernel or "", gpu))
        loaded: Parts = {
            "weights": states.weights,
            "quantization_state": states.quantization_state,
            "adapters": states.adapters,
        }
        always = _sum(loaded, {"optimizer_states": states.optimizer_states})
        trained = _sum(always, {"gradients": states.gradients})
        accumulates = self.plan.gradient_accumulation_steps > 1
        during = trained if accumulates else always
        kept: Parts = {"logits": self._kept_logits_bytes()}
        before = _sum(during, kept) if accumulates else during  # the last micro-batch's
        return {
            "load": _sum(loaded, {"temporaries": states.load_temporaries}),
            "forward": _sum(before, forms.forward.fullest(self.bytes_of)),
            "backward": _sum(during, forms.backward.fullest(self.bytes_of)),
            "optimizer": _sum(_sum(trained, kept), {"temporaries": states.optimizer_temporaries}),
        }


def _sum(left: Parts, right: Parts) -> Parts:
    sums = dict(left)
    for component, size in right.items():
        sums[component] = sums.get(component, 0) + size
    return sums


def _about_gpus(reading: _Reading, gpus: list[Gpu], left_out: list[Gpu]) -> Iterator[str]:
    plan = reading.plan
    if left_out:
        names = ", ".join(gpu.name for gpu in left_out)
        why = kernel_refusal(reading.kernel(left_out[0]))
        yield f"Not judged on {names}: {why}"
    names = {plan.gpu_spec.name, *(gpu.name for gpu in left_out)}
    others = [gpu for gpu in gpus if gpu.name not in names]
    without = [gpu.name for gpu in others if not gpu.has_bf16]
    if without and "bf16" in (plan.weights_dtype, plan.autocast_dtype):
        yield f"No bf16 arithmetic on {', '.join(without)}: judged with fp16 in its place."


def _assumptions(
    plan: FineTunePlan, config: dict[str, Any], attention: str | None, device: Device
) -> Iterator[str]:
    yield (
        "Peak allocated: the bytes in live tensors, as torch.cuda.max_memory_allocated counts "
        "them. nvidia-smi shows more: the allocator's cache and the CUDA context."
    )
    yield (
        f"Worked out operation by operation for {config['model_type']}, with {attention} "
        f"attention on {plan.gpu_spec.name}."
    )
    cudnn = cudnn_assumption(attention, plan.gpu_spec)
    if cudnn and plan.attention == "sdpa" and plan.attention_backend == "auto":
        yield cudnn
    yield f"Every example is {plan.seq_len} tokens long; shorter ones need less."
    if beyond := beyond_trained_length(plan, config):
        yield beyond
    if device == "cuda" and context_bytes(plan.gpu_spec) is not None:
        yield context_assumption(plan.gpu_spec)
    if plan.gradient_accumulation_steps > 1:
        yield "Gradients are accumulated: they stay alive through forward and backward."
    if plan.optimizer.startswith("paged_"):
        yield "Paged optimizer states are not counted: they lie in memory the driver can move out."
    yield (
        "Whether it fits is judged with the kernels of each GPU, a tenth more for the cache, and "
        "0.6 GiB of context."
    )
