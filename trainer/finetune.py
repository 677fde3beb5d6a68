"""The whole fine-tune: data, model, training with checkpoints, and what it changed."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from estimator.documents import read_text, write_atomic
from estimator.estimate import Phase
from estimator.problems import InputError, Problem
from trainer import checkpoints
from trainer.attention import chosen_attention
from trainer.build import Training
from trainer.device import limited_memory
from trainer.dryrun import software_versions
from trainer.ending import StoppedEarly
from trainer.evaluate import evaluate, held_out_loss
from trainer.evaluation_results import Comparison, Evaluation
from trainer.finetune_job import Job, Onlooker, build, prepare_job
from trainer.finetune_results import FineTuneRequest, FineTuneResult, Validation
from trainer.finetune_saving import history, published, save
from trainer.learning_rates import LEARNING_RATES
from trainer.publish import check_push
from trainer.results import OutOfMemory
from trainer.run_writer import RunWriter
from trainer.runs import Run
from trainer.shortage import answered
from trainer.training_callback import Watcher
from trainer.training_loop import (
    SPARE_BYTES,
    PlannedTrainer,
    make_trainer,
    saved_bytes,
    total_steps,
)
from trainer.verdict import compare

STATE_BYTES_AT_MOST = 8
"""Of an optimizer, per trained parameter: AdamW's two moments in fp32."""

STOPPED = "stopped on request"
HAS_RANDOM_START = ("prompt_tuning", "prefix_tuning")


def run_finetune(
    request: FineTuneRequest, folder: Path, device: torch.device, onlooker: Onlooker
) -> FineTuneResult:
    """Fine-tune as the plan says, going on from the newest whole checkpoint where there is one.

    Out of memory is a result: it says what was asked, what was there and what would fit.

    Args:
        request: The plan, the data, the device.
        folder: The run's; tokens, checkpoints and the saved model go there.
        device: Where to train.
        onlooker: Is told of progress.

    Raises:
        InputError: The plan, the model or the data cannot be used.
        Diverged: The loss is no number any more.
        DiskFull: There is no room for a checkpoint.
        StoppedEarly: It was asked to stop before the first step.
    """
    started = time.perf_counter()
    if request.push_to_hub:
        check_push(request.push_to_hub)
    job = prepare_job(request, folder, device, onlooker)
    with limited_memory(device, request.memory_limit_gib, None) as limits:
        try:
            result = _finetuned(job, started)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is one
            shortage = limits.shortage(error, job.phase)
            if shortage is None:
                raise
            result = _too_large(job, shortage, started)
    if result.out_of_memory:  # by now nothing holds the model any more
        onlooker.on_activity("out of memory: looking for changes that make it fit")
        found = answered(result.out_of_memory, job.plan, device)
        return result.model_copy(update={"out_of_memory": found})
    return published(job, result) if request.push_to_hub else result


def _finetuned(job: Job, started: float) -> FineTuneResult:
    with chosen_attention(job.plan, job.device):
        training = build(job)
        _check_disk(job, training)
        before = _before(job, training)
        _stop_if_asked(job, "before training")
        trainer, watcher = _train(job, training)
        comparison = None
        if watcher.ended != STOPPED and before is not None:
            comparison = _after(job, training, before, watcher)
        seconds = time.perf_counter() - started
        result = _result(job, training, trainer, watcher, comparison, seconds)
        job.onlooker.on_activity("saving")
        save(job, training, result)
    return result


def _too_large(job: Job, shortage: OutOfMemory, started: float) -> FineTuneResult:
    """What there is to say of a fine-tune that ran out of memory."""
    losses = [row["loss"] for row in Run(job.folder).metrics() if "loss" in row]
    on_cuda = job.device.type == "cuda"
    return FineTuneResult(
        plan=job.plan,
        device="cuda" if on_cuda else "cpu",
        device_name=torch.cuda.get_device_name(job.device) if on_cuda else "CPU",
        data=job.data.summary,
        learning_rate=job.plan.schedule.learning_rate or LEARNING_RATES[job.plan.method],
        total_steps=total_steps(job.plan, len(job.data.train)),
        num_steps=len(losses),
        ended="out of memory",
        first_loss=losses[0] if losses else None,
        last_loss=losses[-1] if losses else None,
        seconds=time.perf_counter() - started,
        out_of_memory=shortage,
        notes=tuple(job.notes),
        software=software_versions(),
    )


def _stop_if_asked(job: Job, when: str) -> None:
    if job.onlooker.should_stop():
        raise StoppedEarly(f"stopped {when}: no step was taken, and what was there is kept")


def _check_disk(job: Job, training: Training) -> None:
    """Refuse now what would fill the disk in hours."""
    trained = sum(one.numel() for one in training.parameters)
    checkpoint = saved_bytes(training.model) + STATE_BYTES_AT_MOST * trained
    # the newest two, the best, one on its way, and the saved model
    needed = (checkpoints.NUM_KEPT + 2) * checkpoint + saved_bytes(training.model) + SPARE_BYTES
    free = shutil.disk_usage(job.folder).free
    if free < needed:
        what = f"the disk has {free / 2**30:.1f} GiB free"
        allowed = f"{needed / 2**30:.1f} GiB, for checkpoints of {checkpoint / 2**30:.1f} GiB each"
        fix = "free some space, or set TUNEPLAN_HOME to a folder on another disk"
        raise InputError(Problem(str(job.folder), what, allowed, fix))


def _before(job: Job, training: Training) -> Evaluation | None:
    """The model as it was; measured once, also where the run is taken up again."""
    if job.data.validation is None:
        return None
    file = job.folder / "before.json"
    if file.exists():
        return Evaluation.model_validate_json(read_text(file))
    found = _evaluate(job, training, "before training", is_before=True)
    write_atomic(file, found.model_dump_json(indent=2) + "\n")
    return found


def _evaluate(job: Job, training: Training, when: str, *, is_before: bool = False) -> Evaluation:
    def on_progress(text: str) -> None:
        _stop_if_asked(job, f"while it was evaluated {when}")
        job.onlooker.on_activity(f"evaluating {when}: {text}")

    job.phase = "forward"
    job.onlooker.on_activity(f"evaluating {when}")
    return evaluate(
        training.model,
        job.tokenizer,
        job.data.validation or [],
        job.references,
        job.plan,
        job.device,
        seed=job.plan.schedule.seed,
        without_adapter=is_before and job.plan.method in HAS_RANDOM_START,
        on_progress=on_progress,
    )


def _after(job: Job, training: Training, before: Evaluation, watcher: Watcher) -> Comparison | None:
    try:
        after = _evaluate(job, training, "after training")
    except StoppedEarly:
        watcher.ended = STOPPED
        job.notes.append(
            "All steps are taken. It was stopped while it was evaluated: taken up again, it says "
            "what has changed."
        )
        return None
    return compare(before, after, history(job, watcher.kept_step))


def _train(job: Job, training: Training) -> tuple[PlannedTrainer, Watcher]:
    folder = job.folder / "checkpoints"
    folder.mkdir(exist_ok=True)
    checkpoint, notes = checkpoints.newest_whole(folder)
    step = checkpoints.step_of(checkpoint) if checkpoint else 0
    checkpoints.delete_after(folder, step)
    job.notes += notes
    if notes and not checkpoint:
        job.notes.append("No checkpoint was whole: training began again at the first step.")
    watcher = _watcher(job, step)
    trainer = make_trainer(
        training,
        train_rows=job.data.train,
        collate=job.collate,
        tokenizer=job.tokenizer,
        has_validation=job.data.validation is not None,
        folder=folder,
        device=job.device,
        watcher=watcher,
    )
    job.onlooker.on_activity(f"going on from step {step}" if checkpoint else "training")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if watcher.best_is_lost:
        job.notes.append(f"{watcher.best_is_lost}: the weights of the last step are kept.")
    return trainer, watcher


def _watcher(job: Job, step: int) -> Watcher:
    """A watcher that knows what was seen up to a step, before the run was taken up again."""
    rows = []
    if step or (job.folder / "metrics.jsonl").exists():
        RunWriter(job.folder).rewind(step)
        rows = Run(job.folder).metrics()

    def loss(model: Any) -> float | None:
        job.onlooker.on_activity("validating")
        return held_out_loss(model, job.data.validation or [], job.plan, job.device)

    def on_phase(phase: Phase) -> None:
        job.phase = phase

    trained = [row for row in rows if "validation_loss" not in row]
    return Watcher(
        on_row=job.onlooker.on_row,
        on_num_steps=job.onlooker.on_num_steps,
        should_stop=job.onlooker.should_stop,
        validation_loss=loss,
        on_phase=on_phase,
        validations=[
            Validation(step=row["step"], epoch=row["epoch"], loss=row["validation_loss"])
            for row in rows
            if "validation_loss" in row
        ],
        losses=[row["loss"] for row in trained],
        step_seconds=[row["step_seconds"] for row in trained],
        tokens_per_second=[row["tokens_per_second"] for row in trained],
    )


def _result(
    job: Job,
    training: Training,
    trainer: PlannedTrainer,
    watcher: Watcher,
    comparison: Comparison | None,
    seconds: float,
) -> FineTuneResult:
    device, state = job.device, trainer.state
    on_cuda = device.type == "cuda"
    return FineTuneResult(
        plan=job.plan,
        device="cuda" if on_cuda else "cpu",
        device_name=torch.cuda.get_device_name(device) if on_cuda else "CPU",
        data=job.data.summary,
        learning_rate=training.optimizer.defaults["lr"],
        total_steps=state.max_steps,
        num_steps=state.global_step,
        epochs=state.epoch or 0.0,
        ended=watcher.ended,
        stopped_early=watcher.ended == STOPPED,
        first_loss=watcher.losses[0] if watcher.losses else None,
        last_loss=watcher.losses[-1] if watcher.losses else None,
        validations=tuple(watcher.validations),
        best_step=watcher.kept_step,
        comparison=comparison,
        step_seconds_median=_median(watcher.step_seconds),
        tokens_per_second=_median(watcher.tokens_per_second),
        seconds=seconds,
        peak_allocated_bytes=watcher.peak_allocated_bytes,
        peak_reserved_bytes=watcher.peak_reserved_bytes,
        saved="adapter" if job.plan.uses_adapter else "model",
        notes=(*job.notes, *_advice(watcher.losses)),
        software=software_versions(),
    )


def _advice(losses: list[float]) -> list[str]:
    """What the training loss alone says."""
    if len(losses) < _FEW_LOSSES or _mean(losses[-3:]) <= 1.2 * _mean(losses[:3]):
        return []
    return [
        f"The training loss rose, from about {_mean(losses[:3]):.3g} to {_mean(losses[-3:]):.3g}: "
        "lower schedule.learning_rate"
    ]


_FEW_LOSSES = 6


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
