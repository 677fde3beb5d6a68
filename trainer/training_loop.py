"""Hugging Face Trainer around the plan's own training step: schedule, checkpoints, resumption."""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from estimator.estimate import Phase
from estimator.plan import FineTunePlan
from trainer import checkpoints
from trainer.build import Training
from trainer.finetune_results import Validation
from trainer.step import autocast
from trainer.untyped import transformers

CHECKPOINT_MINUTES = 15.0
"""The longest time that a crash can take back, evaluations or not."""


SPARE_BYTES = 32 * 2**20
"""Left free beside a checkpoint, for the log, the metrics and the final words."""


class Diverged(Exception):
    """The loss is no number any more."""


class DiskFull(Exception):
    """There is no room for the next checkpoint; the ones before are still there."""


@dataclass(slots=True)
class Watcher:
    """Who looks on while a fine-tune runs, what has been seen, and who may ask it to stop.

    ``validation_loss`` is called with the model in training; it returns the loss on the held-out
    examples, or None where none are held out. ``best_is_lost`` says why the best weights, once
    training was over, could not be taken; what is kept are the last ones then.
    """

    on_row: Callable[[dict[str, Any]], None]
    on_num_steps: Callable[[int], None]
    should_stop: Callable[[], bool]
    validation_loss: Callable[[Any], float | None]
    on_phase: Callable[[Phase], None]
    validations: list[Validation] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    tokens_per_second: list[float] = field(default_factory=list)
    num_tokens: int = 0
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    ended: str = "all steps taken"
    best_is_lost: str = ""

    @property
    def kept_step(self) -> int | None:
        """After which step the weights were kept, None for the last."""
        return None if self.best is None or self.best_is_lost else self.best.step

    @property
    def best(self) -> Validation | None:
        """The lowest validation loss so far, the first of equal ones."""
        return min(self.validations, key=lambda one: one.loss, default=None)

    def evaluations_since_best(self) -> int:
        """How many evaluations have brought nothing better."""
        best = self.best
        return sum(1 for one in self.validations if best and one.step > best.step)


class PlannedTrainer(transformers.Trainer):
    """The Trainer, with the plan's autocast and a validation loss that weighs tokens equally."""

    def __init__(self, *, plan: FineTunePlan, watcher: Watcher, **beside: Any) -> None:
        self.plan = plan
        self.watcher = watcher
        super().__init__(**beside)

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> contextlib.AbstractContextManager[Any]:
        """Return the plan's autocast; Accelerate's own would copy the logits to fp32 besides."""
        del cache_enabled
        if self.args.fp16:  # gradients are scaled then, which Accelerate does with its own autocast
            return contextlib.nullcontext()
        return autocast(self.plan, self.args.device)

    def training_step(self, model: Any, inputs: dict[str, Any], *more: Any) -> torch.Tensor:
        """Take a micro-step, and count its tokens."""
        self.watcher.num_tokens += inputs["input_ids"].numel()
        return super().training_step(model, inputs, *more)

    def compute_loss(self, *of: Any, **how: Any) -> Any:
        """Return the loss, and tell the phases that a shortage of memory may end."""
        self.watcher.on_phase("forward")
        loss = super().compute_loss(*of, **how)
        self.watcher.on_phase("backward")
        return loss

    def _load_best_model(self) -> None:
        """Take the best weights, unless a bad disk or somebody's hand has damaged them."""
        best = Path(str(self.state.best_model_checkpoint))
        wrong = checkpoints.damage(best)
        if wrong:
            self.watcher.best_is_lost = f"{best.name} had the best weights, but {wrong}"
        else:
            super()._load_best_model()

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the validation loss per learned token, and tell it."""
        loss = self.watcher.validation_loss(self.model)
        metrics = {} if loss is None else {"eval_loss": loss}
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _save_checkpoint(self, *about: Any) -> None:
        """Write a checkpoint, or leave no part of it."""
        folder = Path(self.args.output_dir)
        needed = saved_bytes(self.model) + _state_bytes(self.optimizer)
        free = shutil.disk_usage(folder).free
        if free < needed + SPARE_BYTES:
            raise DiskFull(_no_room(needed, free))
        try:
            super()._save_checkpoint(*about)
        except Exception as error:
            shutil.rmtree(folder / f"checkpoint-{self.state.global_step}", ignore_errors=True)
            if "No space left" in str(error) or getattr(error, "errno", 0) == errno.ENOSPC:
                raise DiskFull(_no_room(needed, shutil.disk_usage(folder).free)) from error
            raise


def saved_bytes(model: Any) -> int:
    """Return how much disk a model takes once saved: its adapter, or all of it."""
    is_adapter = hasattr(model, "peft_config")
    kept = (one for one in model.parameters() if one.requires_grad or not is_adapter)
    return sum(one.numel() * one.element_size() for one in kept)


def _state_bytes(optimizer: Any) -> int:
    states = optimizer.state.values()
    tensors = [one for state in states for one in state.values() if isinstance(one, torch.Tensor)]
    return sum(one.numel() * one.element_size() for one in tensors)


def _no_room(needed: int, free: int) -> str:
    return (
        f"the disk is full: a checkpoint takes {needed / 2**20:,.0f} MiB, and "
        f"{free / 2**20:,.0f} MiB are free"
    )


class _Callback(transformers.TrainerCallback):
    """Tells each step, keeps checkpoints whole, and ends training when it is time."""

    def __init__(self, plan: FineTunePlan, watcher: Watcher) -> None:
        self.plan = plan
        self.watcher = watcher
        self.began = self.saved = time.monotonic()
        self.took = 0.0

    def on_train_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        self.watcher.on_num_steps(state.max_steps)

    def on_step_begin(self, args: Any, *_: Any, **__: Any) -> None:
        self.began = time.monotonic()
        self.watcher.num_tokens = 0
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.watcher.on_phase("optimizer")

    def on_step_end(self, args: Any, _state: Any, control: Any, **_: Any) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)
        self.took = time.monotonic() - self.began
        if self.watcher.should_stop():
            control.should_training_stop = control.should_save = True
            self.watcher.ended = "stopped on request"
        elif time.monotonic() - self.saved > 60 * CHECKPOINT_MINUTES:
            control.should_save = True

    def on_log(self, args: Any, state: Any, _control: Any, logs: dict[str, Any], **_: Any) -> None:
        if "loss" not in logs:
            return
        loss, watcher = float(logs["loss"]), self.watcher
        peak = None
        if args.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(args.device)
            reserved = torch.cuda.max_memory_reserved(args.device)
            watcher.peak_allocated_bytes = max(peak, watcher.peak_allocated_bytes or 0)
            watcher.peak_reserved_bytes = max(reserved, watcher.peak_reserved_bytes or 0)
        row = {
            "step": state.global_step,
            "epoch": round(state.epoch, 4),
            "loss": loss if math.isfinite(loss) else None,
            "learning_rate": logs.get("learning_rate"),
            "gradient_norm": _finite(logs.get("grad_norm")),
            "step_seconds": self.took,
            "tokens_per_second": watcher.num_tokens / self.took,
            "peak_allocated_bytes": peak,
        }
        watcher.on_row(row)
        watcher.losses.append(loss)
        watcher.step_seconds.append(self.took)
        watcher.tokens_per_second.append(row["tokens_per_second"])
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {state.global_step}")

    def on_evaluate(
        self, _args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        if "eval_loss" not in metrics:
            return
        found = Validation(step=state.global_step, epoch=state.epoch, loss=metrics["eval_loss"])
        watcher, patience = self.watcher, self.plan.schedule.early_stopping_patience
        watcher.validations.append(found)
        watcher.on_row(
            {"step": found.step, "epoch": round(found.epoch, 4), "validation_loss": found.loss}
        )
        if patience is not None and watcher.evaluations_since_best() >= patience:
            control.should_training_stop = True
            best = watcher.best
            if best is not None:
                watcher.ended = (
                    f"the validation loss has not fallen since step {best.step} "
                    f"({patience} evaluations)"
                )

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        folder = Path(args.output_dir)
        checkpoint = folder / f"checkpoint-{state.global_step}"
        checkpoints.to_disk(folder.parent / "metrics.jsonl")  # what a checkpoint goes on from
        checkpoints.seal(checkpoint)
        checkpoints.delete_old(folder, state.best_model_checkpoint)
        self.saved = time.monotonic()


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def total_steps(plan: FineTunePlan, num_rows: int) -> int:
    """Return how many optimizer steps a plan takes over so many rows."""
    return math.ceil(plan.epochs * _steps_per_epoch(plan, num_rows))


def _steps_per_epoch(plan: FineTunePlan, num_rows: int) -> int:
    return math.ceil(num_rows / (plan.micro_batch_size * plan.gradient_accumulation_steps))


def make_trainer(
    training: Training,
    *,
    train_rows: Any,
    collate: Callable[[list[Any]], dict[str, torch.Tensor]],
    tokenizer: Any,
    has_validation: bool,
    folder: Path,
    device: torch.device,
    watcher: Watcher,
) -> PlannedTrainer:
    """Return the Trainer of a whole fine-tune, ready to ``train()``.

    Args:
        training: The prepared model with its optimizer.
        train_rows: Map-style dataset of token rows.
        collate: Rows → batch.
        tokenizer: Saved beside the weights.
        has_validation: Whether examples are held out.
        folder: Where checkpoints go.
        device: Where the model is.
        watcher: Is told of everything.
    """
    plan, schedule = training.plan, training.plan.schedule
    interval = max(1, _steps_per_epoch(plan, len(train_rows)) // schedule.evaluations_per_epoch)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=plan.micro_batch_size,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        num_train_epochs=plan.epochs,
        max_grad_norm=plan.max_grad_norm or 0.0,
        lr_scheduler_type=_SCHEDULERS[schedule.lr_scheduler],
        warmup_steps=schedule.warmup_ratio,
        seed=schedule.seed,
        fp16=plan.autocast_dtype == "fp16",
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if has_validation else "no",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        load_best_model_at_end=has_validation,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        use_cpu=device.type == "cpu",
        disable_tqdm=True,
        report_to="none",
    )
    trainer = PlannedTrainer(
        plan=plan,
        watcher=watcher,
        model=training.model,
        args=arguments,
        data_collator=collate,
        train_dataset=train_rows,
        eval_dataset=train_rows if has_validation else None,  # its own rows are the watcher's
        processing_class=tokenizer,
        optimizers=(training.optimizer, None),
        callbacks=[_Callback(plan, watcher)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


_SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
