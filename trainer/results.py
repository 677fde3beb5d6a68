"""What a probe is asked for and what it finds: plain records, readable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from estimator.estimate import MemoryEstimate
from estimator.plan import FineTunePlan
from estimator.records import Record

Device = Literal["auto", "cpu", "cuda"]


class ProbeRequest(Record):
    """One probe: the plan, and how long and where to run it.

    ``memory_limit_gib`` makes the device look smaller than it is, so that a large GPU can stand
    in for a small one; on a CPU it bounds the worker's memory. ``trust_remote_code`` lets this
    one run execute Python code that the model brings along.
    """

    kind: Literal["probe"] = "probe"
    plan: FineTunePlan
    data_path: str | None = None
    num_steps: int = Field(default=6, ge=2, le=100_000)
    device: Device = "auto"
    memory_limit_gib: float | None = Field(default=None, gt=0)
    trust_remote_code: bool = False


class Change(Record):
    """One change to a plan, and what the estimate says of it."""

    override: str
    peak_allocated_bytes: int


class OutOfMemory(Record):
    """The device was too small: what was asked, what was there, and what would make it fit."""

    phase: str
    requested_bytes: int | None
    allocated_bytes: int | None
    capacity_bytes: int | None
    message: str
    changes: tuple[Change, ...] = ()


class ProbeResult(Record):
    """What a probe found, beside what was estimated before it began.

    Exactly one of ``measured`` and ``out_of_memory`` is there. ``formula`` is None where the
    closed form does not hold for the plan; ``formula_refusal`` then says why. ``remote_code``
    says so where Python code of the model's own was run.
    """

    kind: Literal["probe"] = "probe"
    plan: FineTunePlan
    device: Literal["cpu", "cuda"]
    device_name: str
    weights: Literal["random", "pretrained"]
    data: str
    dry_run: MemoryEstimate | None
    formula: MemoryEstimate | None
    formula_refusal: str = ""
    measured: MemoryEstimate | None = None
    out_of_memory: OutOfMemory | None = None
    num_steps: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    step_seconds_median: float | None = None
    tokens_per_second: float | None = None
    software: dict[str, str] = Field(default_factory=dict)
    stopped_early: bool = False
    remote_code: str = ""
