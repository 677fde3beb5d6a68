"""The whole fine-tune: data, model, training with checkpoints, what it changed, what is saved."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from estimator.documents import read_text, write_atomic
from estimator.models import ResolvedModel, resolve_model
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer import checkpoints
from trainer.attention import chosen_attention
from trainer.build import Training, build_training, prepare
from trainer.device import choose_device, driver_used_bytes, limited_memory
from trainer.dryrun import software_versions
from trainer.evaluate import evaluate, validation_loss
from trainer.evaluation_results import Comparison, Evaluation, compare
from trainer.examples import Example, open_examples, split_of
from trainer.finetune_results import FineTuneRequest, FineTuneResult, Validation
from trainer.run_writer import RunWriter
from trainer.runs import Run
from trainer.skeleton import transformers_config
from trainer.tokens import TokenizedData, collate, tokenize_data
from trainer.training_loop import (
    SPARE_BYTES,
    PlannedTrainer,
    Watcher,
    make_trainer,
    saved_bytes,
)
from trainer.untyped import transformers
from trainer.weights import load_pretrained

NUM_REFERENCES = 20
"""Held-out examples whose answers are written out before and after, for people to read."""


@dataclass(slots=True)
class Onlooker:
    """Who looks on while a fine-tune runs, and may ask it to stop.

    ``on_state`` is told of changes to the run's status; ``on_activity`` of what is being done.
    """

    on_activity: Callable[[str], None]
    on_row: Callable[[dict[str, Any]], None]
    on_num_steps: Callable[[int], None]
    should_stop: Callable[[], bool]


@dataclass(slots=True)
class _Job:
    """One fine-tune on its way: everything that the stages below share."""

    request: FineTuneRequest
    folder: Path
    device: torch.device
    onlooker: Onlooker
    facts: ResolvedModel
    weights: Path
    tokenizer: Any
    data: TokenizedData
    references: list[Example]
    notes: list[str] = field(default_factory=list)

    @property
    def plan(self) -> FineTunePlan:
        return self.request.plan

    def collate(self, rows: list[Any]) -> dict[str, torch.Tensor]:
        return collate(rows, self.plan, self.tokenizer, full_length=False)


def run_finetune(
    request: FineTuneRequest, folder: Path, device: torch.device, onlooker: Onlooker
) -> FineTuneResult:
    """Fine-tune as the plan says, going on from the newest whole checkpoint where there is one.

    Args:
        request: The plan, the data, the device.
        folder: The run's; tokens, checkpoints and the saved model go there.
        device: Where to train.
        onlooker: Is told of progress.

    Raises:
        InputError: The plan, the model or the data cannot be used.
        Diverged: The loss is no number any more.
        DiskFull: There is no room for a checkpoint.
    """
    started = time.perf_counter()
    job = _prepare_job(request, folder, device, onlooker)
    with chosen_attention(job.plan, device):
        training = _build(job)
        _check_disk(job, training)
        before = _before(job, training)
        trainer, watcher = _train(job, training)
        comparison = None
        if watcher.ended != STOPPED and before is not None:
            comparison = _after(job, training, before, watcher)
        onlooker.on_activity("saving")
        _save(job, training)
    return _result(job, training, trainer, watcher, comparison, time.perf_counter() - started)


def _prepare_job(
    request: FineTuneRequest, folder: Path, device: torch.device, onlooker: Onlooker
) -> _Job:
    plan = request.plan
    facts = resolve_model(plan.model)
    weights = find_weights(plan.model, facts, onlooker.on_activity)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        weights, local_files_only=True, trust_remote_code=request.trust_remote_code
    )
    onlooker.on_activity("reading the data")
    path = request.data_path or plan.data.path
    if path is None:
        fix = "name a file: --data FILE, or data.path in the plan"
        raise InputError(Problem("--data", "a fine-tune needs examples", fix=fix))
    source = open_examples(path, plan.data.format)
    held_out = request.validation_path and open_examples(request.validation_path, plan.data.format)
    data = tokenize_data(source, tokenizer, plan, folder / "tokens", validation=held_out or None)
    if held_out:
        references = held_out
    else:
        parts = ((split_of(one, plan.schedule), one) for one in source)
        references = (one for part, one in parts if part == "validation")
    return _Job(
        request=request,
        folder=folder,
        device=device,
        onlooker=onlooker,
        facts=facts,
        weights=weights,
        tokenizer=tokenizer,
        data=data,
        references=list(islice(references, NUM_REFERENCES)) if len(data.validation) else [],
    )


def _build(job: _Job) -> Training:
    job.onlooker.on_activity("loading the model")
    torch.manual_seed(job.plan.schedule.seed)
    config = transformers_config(
        job.facts.config, job.plan.model, trust_remote_code=job.request.trust_remote_code
    )
    base = load_pretrained(job.weights, config, job.plan, job.device)
    model = prepare(base, job.plan).to(job.device)
    for adapter in getattr(model, "peft_config", {}).values():
        adapter.base_model_name_or_path = _base_name(job)
    return build_training(model, job.plan, on_cuda=job.device.type == "cuda")


def _base_name(job: _Job) -> str:
    """What a saved adapter calls its base: the Hub's id, or where the folder is."""
    name = job.plan.model
    return str(Path(name).resolve()) if Path(name).exists() else name


def _check_disk(job: _Job, training: Training) -> None:
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


STATE_BYTES_AT_MOST = 8
"""Of an optimizer, per trained parameter: AdamW's two moments in fp32."""

STOPPED = "stopped on request"


def _before(job: _Job, training: Training) -> Evaluation | None:
    """The model as it was; measured once, also where the run is taken up again."""
    if not len(job.data.validation):
        return None
    file = job.folder / "before.json"
    if file.exists():
        return Evaluation.model_validate_json(read_text(file))
    found = _evaluate(job, training, "before training")
    write_atomic(file, found.model_dump_json(indent=2) + "\n")
    return found


def _evaluate(job: _Job, training: Training, when: str) -> Evaluation:
    job.onlooker.on_activity(f"evaluating {when}")
    return evaluate(
        training.model,
        job.tokenizer,
        job.data.validation,
        job.references,
        job.plan,
        job.device,
        seed=job.plan.schedule.seed,
        on_progress=lambda text: job.onlooker.on_activity(f"evaluating {when}: {text}"),
    )


def _after(job: _Job, training: Training, before: Evaluation, watcher: Watcher) -> Comparison:
    after = _evaluate(job, training, "after training")
    history = [(one.step, one.loss) for one in watcher.validations]
    return compare(before, after, history, training_losses=watcher.losses)


def _train(job: _Job, training: Training) -> tuple[PlannedTrainer, Watcher]:
    folder = job.folder / "checkpoints"
    folder.mkdir(exist_ok=True)
    checkpoint, notes = checkpoints.newest_whole(folder)
    step = checkpoints.step_of(checkpoint) if checkpoint else 0
    checkpoints.delete_after(folder, step)
    job.notes += notes
    watcher = _watcher(job, step)
    trainer = make_trainer(
        training,
        train_rows=job.data.train,
        collate=job.collate,
        tokenizer=job.tokenizer,
        has_validation=len(job.data.validation) > 0,
        folder=folder,
        device=job.device,
        watcher=watcher,
    )
    job.onlooker.on_activity(f"going on from step {step}" if checkpoint else "training")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer, watcher


def _watcher(job: _Job, step: int) -> Watcher:
    """A watcher that knows what was seen up to a step, before the run was taken up again."""
    rows = []
    if step or (job.folder / "metrics.jsonl").exists():
        RunWriter(job.folder).rewind(step)
        rows = Run(job.folder).metrics()

    def loss(model: Any) -> float:
        job.onlooker.on_activity("validating")
        return validation_loss(model, job.data.validation, job.plan, job.tokenizer, job.device)

    trained = [row for row in rows if "validation_loss" not in row]
    return Watcher(
        on_row=job.onlooker.on_row,
        should_stop=job.onlooker.should_stop,
        validation_loss=loss,
        validations=[
            Validation(step=row["step"], epoch=row["epoch"], loss=row["validation_loss"])
            for row in rows
            if "validation_loss" in row
        ],
        losses=[row["loss"] for row in trained],
        step_seconds=[row["step_seconds"] for row in trained],
    )


def _save(job: _Job, training: Training) -> None:
    """Put adapter or model, tokenizer and plan into ``model``, all at once or not at all."""
    final, new = job.folder / "model", job.folder / ".model-new"
    old = job.folder / ".model-old"
    shutil.rmtree(new, ignore_errors=True)
    training.model.save_pretrained(new, safe_serialization=True)
    job.tokenizer.save_pretrained(new)
    write_atomic(new / "plan.json", json.dumps(job.plan.to_document(), indent=2) + "\n")
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _result(
    job: _Job,
    training: Training,
    trainer: PlannedTrainer,
    watcher: Watcher,
    comparison: Comparison | None,
    seconds: float,
) -> FineTuneResult:
    device, state, best = job.device, trainer.state, watcher.best
    on_cuda = device.type == "cuda"
    median = statistics.median(watcher.step_seconds) if watcher.step_seconds else None
    reserved = torch.cuda.max_memory_reserved(device) if on_cuda else None
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
        best_step=best.step if best else None,
        comparison=comparison,
        step_seconds_median=median,
        tokens_per_second=watcher.tokens_per_second,
        seconds=seconds,
        peak_reserved_bytes=reserved,
        saved="adapter" if job.plan.uses_adapter else "model",
        notes=tuple(job.notes),
        software=software_versions(),
    )
