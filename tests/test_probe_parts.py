"""The parts of a probe that need no training: roles, searches, the driver's answers, sums."""

from __future__ import annotations

import os
import shlex
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from estimator.changes import with_keys
from estimator.cheapest import gpu_prices
from estimator.memory import read_formula
from estimator.plan import FineTunePlan, load_plan
from estimator.problems import InputError
from estimator.training_steps import Examples, count_steps
from estimator.whole_run import StepTimes, whole_run
from reports import probe_facts
from reports.differences import AGREE, MODELLED, differences
from trainer.device import Limits
from trainer.find_batch import largest_running
from trainer.gpu_meter import SAMPLE_SECONDS, GpuMeter, gpu_holders
from trainer.measure import unwatched_roles
from trainer.probe_inputs import find_weights, input_problems
from trainer.requests import command_of
from trainer.results import BatchSearch, BatchTry, Change, ProbeRequest, ProbeResult

PROJECT = Path(__file__).resolve().parents[1]
TIMES = StepTimes(low=0.9, likely=1.0, high=1.5, optimizer=0.2, num_steps=5, on_own_data=True)


class Driver:
    """Stands in for the driver's functions: this machine has no GPU to ask."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, knows_energy: bool = True) -> None:
        self.knows_energy = knows_energy
        self.millijoules = 1_000_000
        self.busy = iter([50, 100])

    def nvmlInit(self) -> None:  # noqa: N802  the driver's own name
        pass

    nvmlShutdown = nvmlInit  # noqa: N815

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-1":
            raise self.NVMLError
        return uuid

    def nvmlDeviceGetUtilizationRates(self, _handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=next(self.busy, 100))

    def nvmlDeviceGetPowerUsage(self, _handle: str) -> int:  # noqa: N802
        return 200_000

    def nvmlDeviceGetTotalEnergyConsumption(self, _handle: str) -> int:  # noqa: N802
        if not self.knows_energy:
            raise self.NVMLError
        self.millijoules += 30_000
        return self.millijoules

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: str) -> list[Any]:  # noqa: N802
        pids = {1: 2**30, 2**22 + 1: None, os.getpid(): 5}
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in pids.items()]


def test_the_gpu_is_watched_while_steps_run_and_its_counter_gives_the_energy() -> None:
    with GpuMeter("GPU-1", nvml=Driver()) as meter:
        time.sleep(1.5 * SAMPLE_SECONDS)
    use = meter.use
    assert use is not None
    assert use.num_samples >= 2
    assert 50 < (use.mean_utilization_percent or 0) <= 100
    assert use.max_utilization_percent == 100
    assert use.mean_power_watts == 200
    assert use.energy_joules == pytest.approx(30)
    assert "200 W" in probe_facts.gpu_use(use)


def test_without_an_energy_counter_energy_is_power_times_time_and_no_gpu_is_none() -> None:
    with GpuMeter("GPU-1", nvml=Driver(knows_energy=False)) as meter:
        pass
    assert meter.use is not None
    assert meter.use.energy_joules == pytest.approx(200 * meter.use.seconds)
    for uuid in (None, "GPU-2"):
        with GpuMeter(uuid, nvml=Driver()) as meter:
            pass
        assert meter.use is None


def test_others_on_the_gpu_are_named_largest_first_and_we_are_not_among_them() -> None:
    found = gpu_holders("GPU-1", {os.getpid()}, nvml=Driver())
    assert [one.pid for one in found] == [1, 2**22 + 1]
    assert found[0].used_bytes == 2**30
    assert found[1].used_bytes is None
    assert "(pid 1, 1.0 GiB)" in probe_facts.holders(tuple(found))


def test_times_are_taken_at_the_datas_own_length_and_peaks_at_the_full_one() -> None:
    assert unwatched_roles(3, on_cuda=False, is_natural=True) == ["timed"] * 3
    assert unwatched_roles(3, on_cuda=True, is_natural=False) == ["warm_up", "timed", "timed"]
    natural = unwatched_roles(4, on_cuda=True, is_natural=True)
    assert natural == ["stress", "stress", "timed", "timed"]


@pytest.mark.parametrize("limit", [1, 2, 7, 13, 40])
@pytest.mark.parametrize("first", [1, 6, 13, 64])
def test_the_largest_that_runs_is_found_wherever_the_search_begins(limit: int, first: int) -> None:
    tried: list[int] = []

    def runs(size: int) -> bool:
        tried.append(size)
        return size <= limit

    assert largest_running(runs, first) == (limit, True)
    assert len(tried) == len(set(tried))
    if first == limit:
        assert len(tried) == 2


def test_a_search_says_when_not_even_one_runs_and_when_it_was_stopped() -> None:
    assert largest_running(lambda _: False, 8) == (None, True)
    assert largest_running(lambda size: True if size < 4 else None, 3) == (3, False)
    assert largest_running(lambda _: True, 5, most=9) == (9, True)


def test_a_search_says_what_stood_against_it() -> None:
    missed = BatchTry(micro_batch_size=9, ran=False, requested_bytes=2**20)
    ran = BatchTry(micro_batch_size=8, ran=True, peak_allocated_bytes=2**28)
    found = BatchSearch(predicted=9, largest=8, is_exact=True, tries=(missed, ran), seconds=1)
    assert "predicted 9, which ran short when it asked for 1.0 MiB more" in (
        probe_facts.batch_search(found)
    )
    all_of_it = found.model_copy(update={"num_rows": 8, "tries": (ran,)})
    assert "8 runs, and no larger one was tried: your data fills 8 rows; predicted 9" in (
        probe_facts.batch_search(all_of_it)
    )


def test_onednn_out_of_memory_is_told_from_its_other_refusals() -> None:
    refusal = RuntimeError("could not create a primitive")
    bounded = Limits(torch.device("cpu"), 2**30, None, is_asked=True)
    shortage = bounded.shortage(refusal, "forward")
    assert shortage is not None
    assert shortage.capacity_bytes == 2**30
    assert Limits(torch.device("cpu"), 2**30, None).shortage(refusal, "forward") is None


def test_the_whole_run_is_steps_times_seconds_and_its_money_dated_prices(
    tiny_plan: FineTunePlan,
) -> None:
    plan = tiny_plan.changed(padded=True, gradient_accumulation_steps=8, epochs=2)
    examples = Examples(num_examples=1000, tokens_per_example=30)
    # 900 rows in 225 micro-batches of 4: 29 steps an epoch
    assert count_steps(plan, examples) == 58
    found = whole_run(plan, TIMES, examples, "Tesla T4")
    assert found.step_seconds.likely == pytest.approx((1.0 - 0.2) * 4 + 0.2)
    assert found.hours is not None
    assert found.hours.likely == pytest.approx((450 * 0.4 + 58 * 0.2) / 3600)
    assert found.hours.low < found.hours.likely < found.hours.high
    rates = [one.usd_per_hour for one in gpu_prices() if one.gpu == "Tesla T4"]
    assert found.usd is not None
    assert found.usd.low == (Decimal(str(found.hours.low)) * min(rates)).quantize(found.usd.low)
    assert found.prices_from in {one.checked_at for one in gpu_prices()}
    assert "58 steps take" in probe_facts.whole_run(found)


def test_a_step_that_is_filled_in_part_takes_no_whole_steps_time(tiny_plan: FineTunePlan) -> None:
    plan = tiny_plan.changed(micro_batch_size=4, gradient_accumulation_steps=2, epochs=3)
    examples = Examples(num_examples=40, tokens_per_example=30, num_rows=9)
    forward_and_backward = (1.0 - 0.2) / 2
    assert count_steps(plan, examples) == 2 * 3  # 8 rows, then 1
    found = whole_run(plan, TIMES, examples, None)
    assert found.hours is not None
    assert found.hours.likely * 3600 == pytest.approx(3 * (9 / 4 * forward_and_backward + 2 * 0.2))
    # at most the last micro-batch takes as long as a full one: then the second step is half a step
    assert found.hours.high * 3600 == pytest.approx(3 * (1.5 + (1.5 - 0.2) / 2 + 0.2))
    assert any("last step has 1 of 8 rows" in one for one in found.assumptions)
    large = whole_run(plan.changed(micro_batch_size=36), TIMES, examples, None)
    assert large.hours is not None
    assert large.hours.likely * 3600 == pytest.approx(3 * (9 / 36 * forward_and_backward + 0.2))


def test_packed_examples_fill_rows_and_a_cpu_has_no_price(tiny_plan: FineTunePlan) -> None:
    examples = Examples(num_examples=1000, tokens_per_example=64)
    assert count_steps(tiny_plan, examples) == 29 * 3  # 900 x 64 / 256 = 225 rows in steps of 8
    found = whole_run(tiny_plan, TIMES, examples, None)
    assert found.hours is not None
    assert found.usd is None
    assert "No price" in found.unknown
    nobody_knows = whole_run(tiny_plan, TIMES, None, None)
    assert nobody_knows.hours is None
    assert "data.num_examples" in nobody_knows.unknown


def test_the_reasons_name_the_component_that_differs_most(tiny_plan: FineTunePlan) -> None:
    estimate = read_formula(tiny_plan, device="cpu")
    more = dict(estimate.components_bytes)
    more["logits"] = (more["logits"] or 0) + 2**24
    more["workspace"] = 2**20
    measured = estimate.model_copy(
        update={
            "basis": "measured",
            "components_bytes": more,
            "peak_allocated_bytes": estimate.peak_allocated_bytes + 2**24 + 2**20,
        }
    )
    result = ProbeResult(
        plan=tiny_plan,
        device="cpu",
        device_name="CPU",
        weights="random",
        data="random tokens",
        dry_run=measured.model_copy(update={"basis": "dry-run"}),
        formula=estimate,
        measured=measured,
        software={"torch": "2.99.0", "peft": MODELLED["peft"] + ".2"},
    )
    dry_run, formula = differences(result)
    assert dry_run.reasons == ("The dry run agrees within 0.1 %.",)
    assert list(formula.components_bytes) == ["logits", "workspace"]
    assert formula.reasons[1].startswith("logits: 16.0 MiB more than estimated")
    assert any("torch 2.99.0" in reason for reason in formula.reasons)
    assert not any("Installed are peft" in reason for reason in formula.reasons)
    assert formula.difference_bytes > AGREE * measured.peak_allocated_bytes


def test_the_modelled_versions_are_the_pinned_ones() -> None:
    pins = (PROJECT / "requirements.txt").read_text()
    for library, version in MODELLED.items():
        assert f"{library}=={version}." in pins or f"{library}>={version}," in pins


def test_a_pasted_command_gives_the_changed_plan(tiny_plan: FineTunePlan, tmp_path: Path) -> None:
    plan = tiny_plan.changed(method="full")
    file = tmp_path / "plan.json"
    file.write_text(plan.model_dump_json())
    request = ProbeRequest(plan=plan, device="cpu", find_batch=True)
    for keys in (
        {"method": "qlora", "adapter.r": 8},
        {"method": "lora", "adapter.target_modules": ["q_proj", "v_proj"]},
        {"seq_len": 128},
    ):
        change = Change(override="", peak_allocated_bytes=1, keys=keys)
        words = shlex.split(probe_facts.change_command(request, str(file), plan, change))
        asked = command_of(request.model_copy(update={"find_batch": False}), str(file))
        assert words[: len(asked)] == asked
        overrides = [word for word in words[len(asked) :] if word != "--set"]
        assert load_plan(file, overrides) == with_keys(plan, keys)


def test_what_the_worker_would_find_wrong_is_found_before_it_begins(
    tiny_plan: FineTunePlan, tmp_path: Path
) -> None:
    def wrong(plan: FineTunePlan, **changes: Any) -> str:
        request = ProbeRequest(plan=plan, device="cpu", **changes)
        return "\n".join(map(str, input_problems(request)))

    assert wrong(tiny_plan) == ""
    assert "--find-batch" in wrong(tiny_plan, find_batch=True)
    assert "too little" in wrong(tiny_plan, memory_limit_gib=0.1)
    parallel = tiny_plan.changed(parallel={"strategy": "ddp", "data_parallel_size": 2})
    assert "not run yet" in wrong(parallel)
    missing = tiny_plan.changed(adapter={"target_modules": ["nowhere"]})
    assert "nowhere" in wrong(missing)
    bare = tmp_path / "model"
    bare.mkdir()
    (bare / "config.json").write_text((Path(tiny_plan.model) / "config.json").read_text())
    assert "no tokenizer" in wrong(tiny_plan.changed(model=str(bare)))
    (bare / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin" in wrong(tiny_plan.changed(model=str(bare)))


def test_weights_in_the_hubs_cache_are_used_and_a_broken_download_is_not(
    tiny_plan: FineTunePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from estimator.models import resolve_model

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    name = "HuggingFaceTB/SmolLM2-135M"
    facts = resolve_model(name)
    assert find_weights(facts).folder is None
    assert "loss says nothing" in find_weights(facts).note
    snapshot = tmp_path / "models--HuggingFaceTB--SmolLM2-135M" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    index = snapshot / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    (snapshot / "model-1.safetensors").touch()
    assert "1 files of the weights are missing (model-2.safetensors" in find_weights(facts).note
    (snapshot / "model-2.safetensors").touch()
    assert find_weights(facts).folder == snapshot
    with pytest.raises(InputError):
        find_weights(resolve_model(str(tmp_path / "nowhere")))
