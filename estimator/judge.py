"""On which GPUs a traced step fits, told from its reading for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from estimator.architecture import Architecture, NotModelled
from estimator.estimate import GpuFit, MemoryEstimate
from estimator.gpu_facts import cublas_workspace_bytes, has_flash, plan_attention
from estimator.gpus import Gpu
from estimator.models import resolve_model
from estimator.plan import FineTunePlan
from estimator.problems import InputError


def judge_traced(estimate: MemoryEstimate, gpus: Sequence[Gpu]) -> MemoryEstimate:
    """Return a dry run's or a probe's estimate with a verdict for each GPU it can speak of.

    A trace holds wherever the step takes the same attention kernel. Another size of cuBLAS's
    workspaces, one for forward and one for backward, is made up for; a GPU on which attention
    takes another kernel is left out, and an assumption says so.

    Args:
        estimate: Read for its plan's own GPU.
        gpus: What to judge it against, each once.
    """
    own = estimate.plan.gpu_spec
    wanted = {gpu.name: gpu for gpu in gpus}
    alike = same_attention(estimate.plan, tuple(wanted.values()))
    fits = tuple(_fit(estimate, own, gpu) for gpu in alike)
    left_out = [name for name in wanted if name not in {gpu.name for gpu in alike}]
    found: dict[str, Any] = {"gpus": fits}
    if left_out:
        why = f"attention takes another kernel there than on {own.name}; set gpu to read it"
        sentence = f"Not judged on {', '.join(left_out)}: {why}."
        found["assumptions"] = (*estimate.assumptions, sentence)
    return estimate.model_copy(update=found)


def _fit(estimate: MemoryEstimate, own: Gpu, gpu: Gpu) -> GpuFit:
    more_bytes = 2 * (cublas_workspace_bytes(gpu) - cublas_workspace_bytes(own))
    sizes = ("peak_allocated_bytes", "peak_reserved_bytes", "smallest_fit_bytes")
    known = {name: size for name in sizes if (size := getattr(estimate, name)) is not None}
    there = {name: size + more_bytes for name, size in known.items()}
    return estimate.model_copy(update=there).fit(gpu)


def same_attention(plan: FineTunePlan, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Return those of ``gpus`` on which attention takes the kernel of the plan's own GPU.

    Of a model whose heads nobody knows, only GPUs of the same side of Ampere are taken.
    """
    heads = _heads(plan)
    own = _attention(plan, plan.gpu_spec, heads)
    return tuple(gpu for gpu in gpus if _attention(plan, gpu, heads) == own)


def _attention(plan: FineTunePlan, gpu: Gpu, heads: tuple[int, bool] | None) -> str | bool | None:
    if heads is None:
        return has_flash(gpu)
    return plan_attention(plan, gpu, head_dim=heads[0], is_grouped=heads[1])


def _heads(plan: FineTunePlan) -> tuple[int, bool] | None:
    """Return the size of one head and whether key heads are grouped, None where unknown."""
    try:
        config = resolve_model(plan.model).config
    except InputError:
        return None
    try:
        architecture = Architecture.from_config(config)
    except NotModelled:
        return _heads_in(config)
    except InputError:
        return None
    is_grouped = architecture.num_key_value_heads < architecture.num_attention_heads
    return architecture.head_dim, is_grouped


def _heads_in(config: dict[str, Any]) -> tuple[int, bool] | None:
    """Return what :func:`_heads` does from the usual keys of a config.json."""
    num_heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    head_dim, key_heads = config.get("head_dim"), config.get("num_key_value_heads")
    if not isinstance(num_heads, int) or num_heads < 1:
        return None
    if not isinstance(head_dim, int):
        head_dim = hidden // num_heads if isinstance(hidden, int) else None
    return (head_dim, isinstance(key_heads, int) and key_heads < num_heads) if head_dim else None
