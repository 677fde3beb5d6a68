"""Hugging Face Trainer around the plan's own training step: schedule, checkpoints, resumption."""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from estimator.plan import FineTunePlan
from trainer import checkpoints
from trainer.build import Training
from trainer.learning_rate_schedule import learning_rates
from trainer.step import autocast
from trainer.training_callback import TrainingCallback, Watcher
from trainer.untyped import transformers

SPARE_BYTES = 32 * 2**20
"""Left free beside a checkpoint, for the log, the metrics and the final words."""


class DiskFull(Exception):
    """There is no room for the next checkpoint; the ones before are still there."""


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
    interval = math.ceil(_steps_per_epoch(plan, len(train_rows)) / schedule.evaluations_per_epoch)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=plan.micro_batch_size,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        num_train_epochs=plan.epochs,
        max_grad_norm=plan.max_grad_norm or 0.0,
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
    rates = learning_rates(training.optimizer, schedule, total_steps(plan, len(train_rows)))
    trainer = PlannedTrainer(
        plan=plan,
        watcher=watcher,
        model=training.model,
        args=arguments,
        data_collator=collate,
        train_dataset=train_rows,
        eval_dataset=train_rows if has_validation else None,  # its own rows are the watcher's
        processing_class=tokenizer,
        optimizers=(training.optimizer, rates),
        callbacks=[TrainingCallback(plan, watcher)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer
