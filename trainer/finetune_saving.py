"""What a fine-tune leaves: adapter or model with its card, in the run's folder and on the Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from estimator.documents import write_atomic
from estimator.problems import InputError
from trainer.build import Training
from trainer.checkpoints import to_disk
from trainer.evaluation_results import HistoryPoint
from trainer.finetune_job import Job
from trainer.finetune_results import FineTuneResult
from trainer.model_card import CardFacts, DataFacts, model_card
from trainer.publish import push
from trainer.remote_code import runs_code
from trainer.runs import Run


def save(job: Job, training: Training, result: FineTuneResult) -> None:
    """Put adapter or model, tokenizer, plan and card into ``model``, all at once or not at all."""
    final, new = job.folder / "model", job.folder / ".model-new"
    old = job.folder / ".model-old"
    shutil.rmtree(new, ignore_errors=True)
    try:
        _write_model(job, training, result, new)
    except Exception:  # a part of it would only take room on a disk that is full
        shutil.rmtree(new, ignore_errors=True)
        raise
    for file in new.iterdir():
        to_disk(file)
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
            validation_name=data.validation_name,
            validation_fingerprint=data.validation_fingerprint,
        ),
        device_name=result.device_name,
        peak_allocated_bytes=result.peak_allocated_bytes,
        peak_reserved_bytes=result.peak_reserved_bytes,
        total_bytes=result.total_bytes,
        num_steps=result.num_steps,
        step_seconds_median=result.step_seconds_median,
        tokens_per_second=result.tokens_per_second,
        seconds=result.seconds,
        history=tuple(history(job)),
        comparison=result.comparison,
        software=result.software,
        remote_code=job.request.trust_remote_code and runs_code(job.facts.config, job.weights),
        limits=result.notes,
    )


def history(job: Job, up_to: int | None = None) -> list[HistoryPoint]:
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


def published(job: Job, result: FineTuneResult) -> FineTuneResult:
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
