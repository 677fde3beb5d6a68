"""The whole fine-tune: data, model, training with checkpoints, what it changed, what is saved."""

from __future__ import annotations

import json
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
from trainer.evaluation_results import Comparison, Evaluation, HistoryPoint
from trainer.finetune_job import Job, Onlooker, build, prepare_job
from trainer.finetune_results import FineTuneRequest, FineTuneResult, Validation
from trainer.learning_rates import LEARNING_RATES
from trainer.model_card import CardFacts, DataFacts, model_card
from trainer.publish import check_push, push
from trainer.remote_code import runs_code
from trainer.results import OutOfMemory
from trainer.run_writer import RunWriter
from trainer.runs import Run
from trainer.shortage import answered
from trainer.training_loop import (
    SPARE_BYTES,
    PlannedTrainer,
    Watcher,
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
    return _published(job, result) if request.push_to_hub else result


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
        _save(job, training, result)
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
    return compare(before, after, _history(job, watcher.kept_step))


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


def _save(job: Job, training: Training, result: FineTuneResult) -> None:
    """Put adapter or model, tokenizer, plan and card into ``model``, all at once or not at all."""
    final, new = job.folder / "model", job.folder / ".model-new"
    old = job.folder / ".model-old"
    shutil.rmtree(new, ignore_errors=True)
    try:
        _write_model(job, training, result, new)
    except Exception:  # a part of it would only take room on a disk that is full
        shutil.rmtree(new, ignore_errors=True)
        raise
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _write_model(job: Job, training: Training, result: FineTuneResult, new: Path) -> None:
    training.model.save_pretrained(new, safe_serialization=True)
    job.tokenizer.save_pretrained(new)
    plan = job.plan.to_document()
    # How the data was read: who asks the model puts prompts to it in the same way.
    plan["data"]["format"] = job.data.summary.format
    write_atomic(new / "plan.json", json.dumps(plan, indent=2) + "\n")
    card = model_card(_card_facts(job, result))
    write_atomic(new / "README.md", card)


def _card_facts(job: Job, result: FineTuneResult) -> CardFacts:
    data = result.data
    return CardFacts(
        plan=result.plan,
        saved=result.saved or "model",
        data=DataFacts(
            name=data.name,
            num_examples=data.num_examples,
            num_train=data.num_train,
            num_validation=data.num_validation,
            num_tokens=data.num_tokens,
            fingerprint=data.fingerprint,
        ),
        device_name=result.device_name,
        peak_allocated_bytes=result.peak_allocated_bytes,
        peak_reserved_bytes=result.peak_reserved_bytes,
        total_bytes=result.total_bytes,
        num_steps=result.num_steps,
        step_seconds_median=result.step_seconds_median,
        tokens_per_second=result.tokens_per_second,
        seconds=result.seconds,
        history=tuple(_history(job)),
        comparison=result.comparison,
        software=result.software,
        remote_code=job.request.trust_remote_code and runs_code(job.facts.config, job.weights),
        limits=result.notes,
    )


def _history(job: Job, up_to: int | None = None) -> list[HistoryPoint]:
    """What was seen on the way, up to a step."""
    return [
        HistoryPoint(
            step=row["step"],
            training_loss=row.get("loss"),
            validation_loss=row.get("validation_loss"),
        )
        for row in Run(job.folder).metrics()
        if up_to is None or row["step"] <= up_to
    ]


def _published(job: Job, result: FineTuneResult) -> FineTuneResult:
    """Push what was saved; whatever the Hub says, the fine-tune itself is done."""
    repo_id = job.request.push_to_hub or ""
    try:
        address = push(
            job.folder / "model",
            repo_id,
            private=not job.request.public,
            on_progress=job.onlooker.on_activity,
        )
    except InputError as error:
        again = f"tuneplan push {job.folder.name} {repo_id}"
        note = f"Not published: {error}. Once that is put right: {again}"
        return result.model_copy(update={"notes": (*result.notes, note)})
    return result.model_copy(update={"pushed_to": address})


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
        notes=tuple(job.notes),
        software=software_versions(),
    )


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
