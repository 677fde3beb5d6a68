"""What a probe is asked for and what it finds: plain records, readable without torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from estimator.changes import Training
from estimator.estimate import MemoryEstimate
from estimator.plan import FineTunePlan
from estimator.records import Record
from estimator.whole_run import WholeRun

Device = Literal["auto", "cpu", "cuda"]
StepRole = Literal["watched", "stress", "warm_up", "timed"]
"""What a step of a probe is for.

``watched``: storage by storage, at the plan's full shape; the times of these say nothing.
``stress``: at the full shape, while nobody watches: what the peak of memory is taken from where
the data's own batches are smaller. ``warm_up``: before times are taken. ``timed``: at the shape
that the data has.
"""


class ProbeRequest(Record):
    """One probe: the plan, and how long and where to run it.

    ``memory_limit_gib`` makes the device look smaller than it is, so that a large GPU can stand
    in for a small one; on a CPU it bounds the worker's memory. ``trust_remote_code`` lets this
    one run execute Python code that the model brings along. With ``find_batch`` the plan's
    micro-batch is the largest that really runs, searched for before the steps are taken.
    """

    kind: Literal["probe"] = "probe"
    plan: FineTunePlan
    data_path: str | None = None
    num_steps: int = Field(default=6, ge=2, le=100_000)
    device: Device = "auto"
    memory_limit_gib: float | None = Field(default=None, gt=0)
    trust_remote_code: bool = False
    find_batch: bool = False


class Change(Record):
    """One change to a plan (or several that go together), and what the estimate says of it.

    ``override`` is what is typed after ``--set``; of several keys it holds the further ``--set``.
    ``training`` says whether what is learnt stays the same.
    """

    override: str
    peak_allocated_bytes: int
    text: str = ""
    keys: dict[str, Any] = Field(default_factory=dict)
    training: Training | None = None
    price: str = ""


class GpuHolder(Record):
    """Another process that holds memory of the GPU; None where the driver does not say how much."""

    pid: int
    name: str
    used_bytes: int | None


class OutOfMemory(Record):
    """The device was too small: what was asked, what was there, and what would make it fit.

    Any one of ``changes`` makes it fit, by the estimate; where no single change is enough there
    is one that holds several. ``holders`` are other processes on the GPU.
    """

    phase: str
    requested_bytes: int | None
    allocated_bytes: int | None
    capacity_bytes: int | None
    message: str
    changes: tuple[Change, ...] = ()
    holders: tuple[GpuHolder, ...] = ()


class Lengths(Record):
    """How long the examples of the timed steps were, in real tokens a row.

    ``padded_share`` is the share of all positions that held padding.
    """

    num_rows: int
    shortest: int
    median: float
    longest: int
    padded_share: float


class GpuUse(Record):
    """How the GPU was used while the timed steps ran; None is what the driver does not say.

    Utilisation is the share of time in which any kernel ran, not how well the GPU was filled.
    ``energy_joules`` is the driver's own counter where it has one, else mean power x time.
    """

    mean_utilization_percent: float | None
    max_utilization_percent: float | None
    mean_power_watts: float | None
    energy_joules: float | None
    seconds: float
    num_samples: int


class BatchTry(Record):
    """One micro-batch that was really tried; ``reason`` says why it did not run.

    ``requested_bytes`` is what it asked for when there was no more, where that was said.
    """

    micro_batch_size: int
    ran: bool
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    requested_bytes: int | None = None
    reason: str = ""


class BatchSearch(Record):
    """The search for the largest micro-batch that runs.

    ``predicted`` is what the estimate said; None where it could not tell. ``largest`` is None
    where not even 1 ran. ``is_exact``: the next larger one was tried, and did not run, or it would
    be more than ``num_rows``, the rows that the data fills: None where they were not counted.
    """

    predicted: int | None
    largest: int | None
    is_exact: bool
    tries: tuple[BatchTry, ...]
    seconds: float
    num_rows: int | None = None


class ProbeResult(Record):
    """What a probe found, beside what was estimated before it began.

    Exactly one of ``measured`` and ``out_of_memory`` is there. ``formula`` is None where the
    closed form does not hold for the plan; ``formula_refusal`` then says why. ``remote_code``
    says so where Python code of the model's own was run.

    Attributes:
        weights_note: Where the weights come from, in words.
        steps: How many steps were taken in each role.
        step_seconds_median: Of the timed steps; None where there was none. So are all below.
        tokens_per_step: Real tokens of a timed step, on average.
        tokens_per_second: Real tokens a second.
        padded_tokens_per_second: Real tokens and padding together; None where there is no padding.
        lengths: How long the examples of the timed steps were.
        timed_peak_bytes: The peak of allocated memory in the timed steps, at the data's own shape.
        whole_run: What the whole fine-tune would take.
        batch_search: Where the largest micro-batch was searched for: every try.
    """

    kind: Literal["probe"] = "probe"
    plan: FineTunePlan
    device: Literal["cpu", "cuda"]
    device_name: str
    weights: Literal["random", "pretrained"]
    weights_note: str = ""
    data: str
    dry_run: MemoryEstimate | None
    formula: MemoryEstimate | None
    formula_refusal: str = ""
    measured: MemoryEstimate | None = None
    out_of_memory: OutOfMemory | None = None
    num_steps: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    steps: dict[StepRole, int] = Field(default_factory=dict)
    step_seconds_median: float | None = None
    step_seconds_p95: float | None = None
    tokens_per_step: float | None = None
    tokens_per_second: float | None = None
    padded_tokens_per_second: float | None = None
    lengths: Lengths | None = None
    timed_peak_bytes: int | None = None
    gpu_use: GpuUse | None = None
    whole_run: WholeRun | None = None
    batch_search: BatchSearch | None = None
    software: dict[str, str] = Field(default_factory=dict)
    stopped_early: bool = False
    remote_code: str = ""
