"""A traced step is judged on the GPUs of which it can speak, and names the others."""

import io

from rich.console import Console

from estimator.estimate import MemoryEstimate, ParameterCounts, judged_gpus
from estimator.gpus import GIB, Gpu, common_gpus, find_gpu
from estimator.judge import judge_traced
from estimator.plan import parse_plan
from reports import terminal


def traced(**keys: object) -> MemoryEstimate:
    plan = parse_plan({"model": "meta-llama/Llama-3.1-8B", "method": "qlora", **keys})
    return MemoryEstimate(
        basis="dry-run",
        plan=plan,
        parameters=ParameterCounts(total=8, trainable=1),
        components_bytes={},
        phases_bytes={},
        peak_phase="backward",
        peak_allocated_bytes=20 * GIB,
        peak_reserved_bytes=20 * GIB,
        smallest_fit_bytes=20 * GIB,
        context_bytes=0,
        seconds=1.0,
    )


def test_a_gpu_with_another_attention_kernel_is_named_and_not_judged() -> None:
    estimate = traced(gpu="A100 80GB SXM")
    judged = judge_traced(estimate, (estimate.plan.gpu_spec, *common_gpus()))
    names = [fit.name for fit in judged.gpus]
    assert names[0] == "A100 80GB SXM"
    assert len(set(names)) == len(names)
    assert "Tesla T4" not in names
    assert "H100 SXM 80GB" in names
    said = judged.assumptions[-1]
    for gpu in common_gpus():
        assert (gpu.name in names) != (gpu.name in said.split(":")[0])


def test_larger_workspaces_are_made_up_for() -> None:
    h100 = find_gpu("H100 SXM 80GB")
    (fit,) = judge_traced(traced(gpu="A100 80GB SXM"), (h100,)).gpus
    assert h100.memory_bytes - fit.headroom_bytes - 20 * GIB == 2 * (32 * 2**20 - 8320 * 2**10)


def test_a_step_is_tight_where_only_the_cache_does_not_fit() -> None:
    estimate = traced().model_copy(update={"peak_reserved_bytes": 22 * GIB})
    verdicts = {
        size: judge_traced(estimate, (Gpu(name="card", memory_gib=size),)).gpus[0].fits
        for size in (19, 21, 23)
    }
    assert verdicts == {19: "no", 21: "tight", 23: "yes"}


def test_estimates_that_speak_of_different_gpus_are_laid_side_by_side() -> None:
    t4, h100 = find_gpu("Tesla T4"), find_gpu("H100 SXM 80GB")
    newer = judge_traced(traced(gpu="A100 80GB SXM"), (t4, h100))
    older = judge_traced(traced(gpu="Tesla T4"), (t4, h100))
    assert [fit.name for fit in judged_gpus([newer, older])] == [h100.name, t4.name]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal.comparison([newer, older]))
    rows = [line for line in console.export_text().splitlines() if "not judged" in line]
    assert [row.split()[0] for row in rows] == ["H100", "Tesla"]
