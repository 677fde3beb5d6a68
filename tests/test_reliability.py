"""What can happen to a fine-tune, made to happen: what is said, what is kept, how it goes on.

The workers are real and train for real; docs/reliability.md has the table.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faulty_worker
import pytest
from faulty_worker import Fault

from estimator.changes import with_keys
from estimator.plan import FineTunePlan, load_plan
from estimator.problems import InputError
from trainer import launch
from trainer.finetune_results import FineTuneRequest, FineTuneResult
from trainer.run_writer import again, create_run
from trainer.runs import Run

pytestmark = pytest.mark.xdist_group("faults")  # one process with torch, forked for each worker

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DISK_MIB = 160
HELD_OUT = "schedule.validation_fraction=0.2"
Figures = list[tuple[int, float]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten questions; where some are held out, it is one."""
    path = tmp_path_factory.mktemp("data") / "ten.jsonl"
    lines = (EXAMPLES / "questions.jsonl").read_text().splitlines()
    path.write_text("\n".join(lines[1:20:2]) + "\n")
    return path


def plan_for(data: Path, *overrides: str) -> FineTunePlan:
    """Six steps, with a checkpoint after each."""
    settings = [
        f"data.path={data}",
        "padded=true",
        "seq_len=96",
        "gradient_accumulation_steps=1",
        "epochs=2",
        "adapter.dropout=0.1",
        "schedule.validation_fraction=0",
        "schedule.evaluations_per_epoch=3",
        "schedule.early_stopping_patience=null",
    ]
    return load_plan(EXAMPLES / "tiny.yaml", [*settings, *overrides])


def new_run(data: Path, *overrides: str) -> Run:
    return create_run(FineTuneRequest(plan=plan_for(data, *overrides), device="cpu"))


def met(fault: Fault, data: Path, *overrides: str) -> Run:
    """A fine-tune that met a fault."""
    run = new_run(data, *overrides)
    faulty_worker.run_to_end(run, fault)
    return run


def gone_on(run: Run) -> FineTuneResult:
    """Take a run up again, and return what it brings."""
    again(run)
    assert faulty_worker.run_to_end(run) == 0, (run.status(), run.log_tail())
    assert run.status().state == "finished"
    return finetune_result(run)


def finetune_result(run: Run) -> FineTuneResult:
    result = run.result()
    assert isinstance(result, FineTuneResult)
    return result


def figures(run: Run) -> Figures:
    return [(row["step"], row["loss"]) for row in run.metrics()]


def saved(run: Run) -> list[str]:
    return sorted(path.name for path in run.folder.glob("*model*"))


def checkpoint(run: Run, step: int) -> Path:
    return run.folder / "checkpoints" / f"checkpoint-{step}"


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Figures]:
    """The figures of a run to which nothing happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEPLAN_HOME", str(tmp_path_factory.mktemp("straight")))
        run = new_run(data)
        assert faulty_worker.run_to_end(run) == 0, run.log_tail()
        yield figures(run)


@pytest.mark.parametrize(
    ("fault", "at", "steps_kept"),
    [
        (faulty_worker.killed_at_load, "loading the model", 0),
        (faulty_worker.killed_in_a_step, "step 4 of 6", 4),
        (faulty_worker.killed_in_a_checkpoint, "step 4 of 6", 3),
        (faulty_worker.killed_while_saving, "saving", 6),
    ],
)
def test_a_killed_fine_tune_says_so_and_goes_on(
    fault: Fault, at: str, steps_kept: int, data: Path, straight: Figures
) -> None:
    run = met(fault, data)
    status = run.status()
    assert status.state == "failed"
    assert "killed from outside, out of memory or power loss" in status.reason
    assert f"it was at: {at}" in status.reason
    assert "model" not in saved(run)
    before = [row for row in run.metrics() if row["step"] <= steps_kept]
    if not steps_kept:  # the run is a new one
        return
    result = gone_on(run)
    assert run.metrics()[: len(before)] == before  # with their times: they were not taken again
    assert before[-1]["step"] == steps_kept
    cut_short = any("was not written to its end" in note for note in result.notes)
    assert cut_short == (fault is faulty_worker.killed_in_a_checkpoint)
    assert figures(run) == straight
    assert saved(run) == ["model"]


def test_after_a_power_loss_torn_files_cost_a_checkpoint_and_no_more(
    data: Path, straight: Figures
) -> None:
    run = met(faulty_worker.killed_in_a_step, data)
    metrics = run.folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3]
    cut = checkpoint(run, 4) / "optimizer.pt"
    cut.write_bytes(cut.read_bytes()[:-20])
    result = gone_on(run)
    assert "checkpoint-4 is left out: optimizer.pt is missing or cut short" in result.notes
    assert figures(run) == straight
    assert run.metrics()[:3] == rows  # what was measured until step 3 stays


def test_without_a_whole_checkpoint_it_begins_again_and_says_so(
    data: Path, straight: Figures
) -> None:
    run = met(faulty_worker.killed_in_a_step, data)
    faulty_worker.flip_a_bit(checkpoint(run, 4) / "adapter_model.safetensors")
    (checkpoint(run, 3) / "scheduler.pt").unlink()
    result = gone_on(run)
    assert result.notes[:3] == (
        "checkpoint-4 is left out: adapter_model.safetensors is damaged",
        "checkpoint-3 is left out: scheduler.pt is missing or cut short",
        "No checkpoint was whole: training began again at the first step.",
    )
    assert figures(run) == straight


def test_best_weights_that_were_damaged_are_not_taken_for_good(data: Path) -> None:
    overrides = "method=full", "epochs=4", "schedule.learning_rate=0.02"
    run = met(faulty_worker.damaged_at_the_end, data, *overrides, HELD_OUT)
    result = finetune_result(run)
    assert run.status().state == "finished"
    assert result.best_step is None
    (note,) = (note for note in result.notes if "had the best weights" in note)
    assert "model.safetensors is damaged: the weights of the last step are kept" in note
    assert result.comparison is not None
    last = result.validations[-1].loss
    assert result.comparison.after.validation_loss == pytest.approx(last, rel=1e-5)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of its own for runs, which can be filled."""
    disk = tmp_path / "disk"
    disk.mkdir()
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size={DISK_MIB}m,uid={os.geteuid()}"
    mount = [*as_root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if not shutil.which(mount[0]) or subprocess.run(mount, check=False).returncode:
        pytest.skip("a disk to fill cannot be mounted here")
    monkeypatch.setenv("TUNEPLAN_HOME", str(disk))
    yield disk
    subprocess.run([*as_root, "umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize(
    "fault",
    [
        faulty_worker.full_at_a_step,
        faulty_worker.full_in_a_checkpoint,
        faulty_worker.full_while_saving,
    ],
)
def test_a_full_disk_ends_the_run_with_what_to_do(
    fault: Fault, data: Path, straight: Figures, small_disk: Path
) -> None:
    run = met(fault, data)
    status = run.status()
    assert status.state == "failed"
    assert "the disk is full" in status.reason
    assert "free some space, then resume or start again" in status.reason
    assert saved(run) == []
    for begin in (lambda: launch.resume(run), lambda: new_run(data)):
        with pytest.raises(InputError, match="MiB free; allowed: 100 MiB or more"):
            begin()
    if fault is faulty_worker.full_at_a_step:  # and goes on as the others do
        return
    faulty_worker.filler(run.folder).unlink()
    assert not gone_on(run).notes
    assert figures(run) == straight


def test_told_to_end_it_stops_with_a_checkpoint_and_goes_on_with_the_same_inputs_alone(
    tmp_path: Path, data: Path, straight: Figures
) -> None:
    own = Path(shutil.copy(data, tmp_path / "own.jsonl"))
    model = shutil.copytree(EXAMPLES / "tiny-llama", tmp_path / "model")
    run = met(faulty_worker.told_to_end, own, f"model={model}")
    assert run.status().state == "stopped"
    assert run.status().reason == "told to end (SIGTERM): what was done until then is kept"
    assert checkpoint(run, 3).exists()
    assert saved(run) == ["model"]

    with own.open("a") as stream:
        stream.write('{"prompt": "Who is new?", "completion": "I am."}\n')
    again(run)
    assert faulty_worker.run_to_end(run) == 2
    assert f"data {own}: has changed since the run began" in run.status().reason
    assert "put back what was there, or start a new run" in run.status().reason
    assert checkpoint(run, 3).exists()

    own.write_bytes(data.read_bytes())
    away = model.rename(tmp_path / "away")
    with pytest.raises(InputError, match="no such folder"):
        launch.resume(run)
    away.rename(model)
    gone_on(run)
    assert figures(run) == straight


def test_a_stop_is_heard_while_it_is_evaluated(data: Path) -> None:
    run = met(faulty_worker.stopped_before_training, data, "epochs=1", HELD_OUT)
    assert run.status().state == "stopped"
    assert "no step was taken" in run.status().reason
    again(run)
    faulty_worker.run_to_end(run, faulty_worker.stopped_after_training)
    assert run.status().state == "stopped"
    result = finetune_result(run)
    assert (result.num_steps, result.comparison) == (3, None)
    assert saved(run) == ["model"]
    assert gone_on(run).comparison is not None


def test_out_of_memory_is_an_answer_with_a_change_that_runs(tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    words = " ".join(line for line in (EXAMPLES / "questions.jsonl").read_text().splitlines())
    rows = (json.dumps({"text": f"{number}: {words[number:]}"}) for number in range(3))
    data.write_text("\n".join(rows) + "\n")
    large = ["method=full", "autocast_dtype=none", "padded=false", "seq_len=1024", "epochs=1"]
    large += ["micro_batch_size=6", "gradient_checkpointing=false"]
    plan = plan_for(data, *large)
    request = FineTuneRequest(plan=plan, device="cpu", memory_limit_gib=0.25)
    run = create_run(request)
    assert faulty_worker.run_to_end(run) == 1
    assert run.status().state == "out_of_memory", (run.status(), run.log_tail())
    result = finetune_result(run)
    assert (result.num_steps, result.total_steps) == (0, 2)
    shortage = result.out_of_memory
    assert shortage is not None
    assert shortage.phase in ("forward", "backward")
    keys = shortage.changes[0].keys
    smaller = create_run(request.model_copy(update={"plan": with_keys(plan, keys)}))
    faulty_worker.run_to_end(smaller)
    assert smaller.status().state == "finished", (smaller.status(), smaller.log_tail())


def test_two_fine_tunes_take_turns_and_one_run_has_one_worker(data: Path) -> None:
    first, second, third = (new_run(data, "epochs=1") for _ in range(3))
    holder = faulty_worker.start(first, faulty_worker.paused)
    until(lambda: first.status().activity == "training")
    assert faulty_worker.run_to_end(first) == 1
    assert first.log_tail(1) == ["another worker is at this run already"]
    waiting = [faulty_worker.start(run) for run in (second, third)]
    for run in (second, third):
        until(lambda run=run: run.status().state == "queued")
        assert run.status().activity == f"waiting for {first.id}"
    assert launch.stop(third).state == "stopped"
    assert third.status().reason == "stopped while it waited for its turn"
    assert not first.status().is_final
    holder.kill()
    for worker in waiting:
        worker.join(120)
    assert first.status().state == "failed"
    assert second.status().state == "finished"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
