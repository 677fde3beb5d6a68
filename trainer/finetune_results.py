"""What a fine-tune is asked for and what it brings: plain records, readable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from estimator.plan import FineTunePlan
from estimator.records import Record
from trainer.data_summary import DataSummary
from trainer.evaluation_results import Comparison
from trainer.results import Device, OutOfMemory


class FineTuneRequest(Record):
    """One whole fine-tune.

    ``memory_limit_gib`` as in a probe. ``push_to_hub`` is the Hub id to publish under at the end,
    privately unless ``public``. ``search`` is the run of the search whose ``trial`` it is.
    """

    kind: Literal["finetune"] = "finetune"
    plan: FineTunePlan
    data_path: str | None = None
    validation_path: str | None = None
    device: Device = "auto"
    memory_limit_gib: float | None = Field(default=None, gt=0)
    trust_remote_code: bool = False
    push_to_hub: str | None = None
    public: bool = False
    search: str | None = None
    trial: int | None = None


class Validation(Record):
    """The loss on held-out examples after some step, in nats per learned token."""

    step: int
    epoch: float
    loss: float


class FineTuneResult(Record):
    """What a fine-tune brought. None is what is not known.

    ``num_steps`` of ``total_steps`` were taken; ``ended`` says why no more: "all steps taken",
    "stopped on request", or that the validation loss fell no more. ``saved`` is what lies in the
    run's folder ``model``: of the best validation loss where there is one, else of the last step.
    Memory peaks are the caching allocator's, so None on a CPU.
    """

    kind: Literal["finetune"] = "finetune"
    plan: FineTunePlan
    device: Literal["cpu", "cuda"]
    device_name: str
    data: DataSummary
    learning_rate: float
    total_steps: int
    num_steps: int = 0
    epochs: float = 0.0
    ended: str = ""
    stopped_early: bool = False
    first_loss: float | None = None
    last_loss: float | None = None
    validations: tuple[Validation, ...] = ()
    best_step: int | None = None
    comparison: Comparison | None = None
    step_seconds_median: float | None = None
    tokens_per_second: float | None = None
    seconds: float = 0.0
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    total_bytes: int | None = None
    saved: Literal["adapter", "model"] | None = None
    pushed_to: str | None = None
    out_of_memory: OutOfMemory | None = None
    notes: tuple[str, ...] = ()
    software: dict[str, str] = Field(default_factory=dict)
