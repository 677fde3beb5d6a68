"""Looks on while the Trainer trains: tells each step, keeps checkpoints whole, ends in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from estimator.estimate import Phase
from estimator.plan import FineTunePlan
from trainer import checkpoints
from trainer.finetune_results import Validation
from trainer.untyped import transformers

CHECKPOINT_MINUTES = 15.0
"""The longest time that a crash can take back, evaluations or not."""


class Diverged(Exception):
    """The loss is no number any more."""


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


class TrainingCallback(transformers.TrainerCallback):
    """Tells each step, keeps checkpoints whole, and ends training when it is time."""

    def __init__(self, plan: FineTunePlan, watcher: Watcher) -> None:
        self.plan = plan
        self.watcher = watcher
        self.began = self.saved = time.monotonic()
        self.took = 0.0

    def on_train_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Tell how many steps there will be."""
        self.watcher.on_num_steps(state.max_steps)

    def on_step_begin(self, args: Any, *_: Any, **__: Any) -> None:
        """Begin to measure a step."""
        self.began = time.monotonic()
        self.watcher.num_tokens = 0
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Tell that the optimizer begins."""
        self.watcher.on_phase("optimizer")

    def on_step_end(self, args: Any, _state: Any, control: Any, **_: Any) -> None:
        """Ask whether to stop, or to save again."""
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)
        self.took = time.monotonic() - self.began
        if self.watcher.should_stop():
            control.should_training_stop = control.should_save = True
            self.watcher.ended = "stopped on request"
        elif time.monotonic() - self.saved > 60 * CHECKPOINT_MINUTES:
            control.should_save = True

    def on_log(self, args: Any, state: Any, _control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Tell a step's figures; a loss that is no number ends the run."""
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
        """Tell a validation loss, and end training where it falls no more."""
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
        """Declare a checkpoint whole, and delete old ones."""
        folder = Path(args.output_dir)
        checkpoint = folder / f"checkpoint-{state.global_step}"
        checkpoints.to_disk(folder.parent / "metrics.jsonl")  # what a checkpoint goes on from
        checkpoints.seal(checkpoint)
        checkpoints.delete_old(folder, state.best_model_checkpoint)
        self.saved = time.monotonic()


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
