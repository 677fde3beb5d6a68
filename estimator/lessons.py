"""A lesson: what one finished probe measured, as evidence that names no person, path or data."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from estimator.catalogue import find_bundled_model
from estimator.documents import is_there
from estimator.estimate import Device, MemoryEstimate
from estimator.gpu_names import gpu_of_driver
from estimator.models import resolve_model
from estimator.plan import FineTunePlan, FloatType, Method, Optimizer
from estimator.records import Record
from estimator.throughput import Throughput, read_throughput

MIN_STEPS_FOR_MEMORY = 2
"""Optimizer states first exist in the second step."""

MIN_STEPS_FOR_TIME = 4
"""Two steps are watched, which costs time, and the first of the others warms up."""

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
"""What decides a step's memory and time besides the GPU and its driver."""

_VERSION = re.compile(r"\d+(\.\d+)*(\+(cpu|cu\d+|rocm[\d.]+))?")
_MOST_BYTES = 2**50

Bytes = Annotated[int, Field(ge=0, le=_MOST_BYTES)]
Words = Annotated[str, Field(pattern=r"^[\w][\w .,:/+@()®-]{0,199}$")]
Version = Annotated[str, Field(pattern=r"^\d[\w.+-]{0,39}$")]
Seconds = Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1e20, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1, le=10**9)]


class Peaks(Record):
    """The peaks of one reading; on a CPU only what is allocated is known."""

    allocated_bytes: Bytes
    reserved_bytes: Bytes | None = None
    context_bytes: Bytes | None = None
    total_bytes: Bytes | None = None

    @classmethod
    def of(cls, reading: MemoryEstimate) -> Peaks:
        """Return the peaks of an estimate."""
        return cls(
            allocated_bytes=reading.peak_allocated_bytes,
            reserved_bytes=reading.peak_reserved_bytes,
            context_bytes=reading.context_bytes,
            total_bytes=reading.total_bytes,
        )

    @model_validator(mode="after")
    def _check_order(self) -> Peaks:
        if self.reserved_bytes is not None and self.reserved_bytes < self.allocated_bytes:
            raise ValueError("reserved_bytes no smaller than allocated_bytes")
        if None not in (self.reserved_bytes, self.context_bytes, self.total_bytes):
            parts = (self.reserved_bytes or 0) + (self.context_bytes or 0)
            if self.total_bytes != parts:
                raise ValueError("total_bytes that is reserved_bytes + context_bytes")
        return self


class Step(Record):
    """What decides a step's memory and time in its plan, and nothing that names its owner.

    ``model`` is a bundled or Hub id; of a local model it is the architecture with its size.
    """

    model: Words
    hidden_size: Size | None = None
    num_hidden_layers: Size | None = None
    vocab_size: Size | None = None
    parameters: Annotated[int, Field(ge=1, le=10**15)]
    trainable: Annotated[int, Field(ge=0, le=10**15)]
    method: Method
    adapter_r: Size
    adapter_dtype: FloatType
    use_dora: bool = False
    num_target_modules: Annotated[int, Field(ge=0, le=10_000)] | None = None
    quantization: Literal["none", "nf4", "fp4", "int8"]
    double_quant: bool
    kbit_preparation: bool
    weights_dtype: FloatType
    autocast_dtype: Literal["none", "bf16", "fp16"]
    optimizer: Optimizer
    micro_batch_size: Size
    micro_steps: Annotated[int, Field(ge=1, le=2)]
    seq_len: Size
    padded: bool
    gradient_checkpointing: bool
    attention: Literal["eager", "sdpa", "flash_attention_2"]
    attention_backend: Literal["auto", "flash", "efficient", "math"]
    loss: Literal["default", "chunked", "liger"]
    keep_outputs: bool
    device_map_load: bool
    expandable_segments: bool


class Lesson(Record):
    """What one probe measured, beside what was read before it.

    ``device_name`` is the driver's name of the GPU, or the processor's. ``model_step_seconds`` is
    the likely time by the roofline for the step that was timed, at ``timed_seq_len`` positions an
    example (data may be shorter than the plan's ``seq_len``, at which memory is measured); None
    where the GPU's rates are not known.
    ``mfu`` is the share of the GPU's dense peak that the step's matrix products reached, recompute
    left out. ``imported_from`` is "" for a probe of one's own.
    """

    version: Literal[1] = 1
    made_on: date
    tuneplan: Version
    device: Device
    device_name: Words
    driver: Version | None = None
    software: dict[Words, Version] = Field(max_length=20)
    step: Step
    num_steps: Annotated[int, Field(ge=1, le=10**9)]
    had_memory_limit: bool = False
    timed_seq_len: Size | None = None
    measured: Peaks
    dry_run: Peaks | None = None
    formula: Peaks | None = None
    step_seconds: Seconds | None = None
    tokens_per_second: Rate | None = None
    model_step_seconds: Seconds | None = None
    flops_per_second: Rate | None = None
    mfu: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None
    imported_from: Annotated[str, Field(max_length=200)] = ""

    @property
    def id(self) -> str:
        """Twelve digits of what the lesson says; who imported it from where does not count."""
        said = self.model_dump(mode="json", exclude={"imported_from"})
        text = json.dumps(said, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def stack(self) -> dict[str, str]:
        """The libraries that count, each as major.minor."""
        return stack_of(self.software)

    @property
    def teaches_allocated(self) -> bool:
        """Whether its allocated peak is that of a whole step, optimizer states included."""
        return self.num_steps >= MIN_STEPS_FOR_MEMORY

    @property
    def teaches_reserved(self) -> bool:
        """Whether its cache is what the allocator likes to hold: a limit makes it give back."""
        return (
            self.teaches_allocated
            and not self.had_memory_limit
            and self.measured.reserved_bytes is not None
        )

    @property
    def teaches_time(self) -> bool:
        """Whether its time is that of warm steps that nobody watched, with room to breathe."""
        enough = self.num_steps >= MIN_STEPS_FOR_TIME and self.step_seconds is not None
        return enough and not self.had_memory_limit


def stack_of(software: dict[str, str]) -> dict[str, str]:
    """Return the libraries that decide a step as major.minor (``2.13.0+cu130`` is 2.13)."""
    known = {name: software[name] for name in LIBRARIES if name in software}
    return {name: ".".join(number.split("+")[0].split(".")[:2]) for name, number in known.items()}


def lesson_from(
    plan: FineTunePlan,
    *,
    device: Device,
    device_name: str,
    measured: MemoryEstimate,
    dry_run: MemoryEstimate | None,
    formula: MemoryEstimate | None,
    num_steps: int,
    step_seconds: float | None,
    tokens_per_second: float | None,
    software: dict[str, str],
    tuneplan: str,
    made_on: date,
    driver: str | None = None,
    had_memory_limit: bool = False,
) -> Lesson:
    """Return what a finished probe teaches. Its loss teaches nothing here.

    Args:
        plan: As it was probed.
        device: Where it ran.
        device_name: The GPU as the driver calls it, or the processor.
        measured: The probe's reading.
        dry_run: The plan's dry run for the same device, where there is one.
        formula: Its formula reading, where there is one.
        num_steps: Optimizer steps that were taken.
        step_seconds: Median of the timed steps, each of ``plan.micro_steps_taken``.
        tokens_per_second: Tokens of such a step by its time, padding included.
        software: Versions of the libraries.
        tuneplan: Version of tuneplan.
        made_on: The day.
        driver: The GPU driver's version.
        had_memory_limit: Whether the probe had less memory than the device has.

    Raises:
        InputError: The plan's model is not there any more.
    """
    length = _timed_seq_len(plan, step_seconds, tokens_per_second)
    time = _time_of_the_same_step(plan, device_name, length or plan.seq_len)
    flops = sum(n for name, n in time.flops_per_step.items() if not name.endswith("_recompute"))
    rate = flops / step_seconds if flops and step_seconds else None
    peak = _peak_flops_per_second(plan, device_name) if device == "cuda" else None
    return Lesson(
        made_on=made_on,
        tuneplan=tuneplan,
        device=device,
        device_name=device_name,
        driver=_version(driver or ""),
        software={name: v for name, full in software.items() if (v := _version(full))},
        step=_step(plan, measured),
        num_steps=num_steps,
        had_memory_limit=had_memory_limit,
        timed_seq_len=length,
        measured=Peaks.of(measured),
        dry_run=Peaks.of(dry_run) if dry_run else None,
        formula=Peaks.of(formula) if formula else None,
        step_seconds=step_seconds,
        tokens_per_second=tokens_per_second,
        model_step_seconds=time.step_seconds.likely
        if time.step_seconds and device == "cuda"
        else None,
        flops_per_second=rate,
        mfu=rate / peak if rate and peak else None,
    )


def _version(text: str) -> str | None:
    """Return a version without what a build of one's own may have written into it."""
    match = _VERSION.match(text)
    return match[0] if match else None


def _timed_seq_len(
    plan: FineTunePlan, step_seconds: float | None, tokens_per_second: float | None
) -> int | None:
    """Positions an example had in the timed steps, on average; None where none was timed."""
    if not (step_seconds and tokens_per_second):
        return None
    rows = plan.micro_batch_size * plan.micro_steps_taken
    return max(1, round(step_seconds * tokens_per_second / rows))


def _time_of_the_same_step(plan: FineTunePlan, device_name: str, seq_len: int) -> Throughput:
    """The roofline of the step that was timed: its micro-batches, the catalogue's rates."""
    changes: dict[str, Any] = {
        "gradient_accumulation_steps": plan.micro_steps_taken,
        "seq_len": seq_len,
    }
    known = gpu_of_driver(device_name)
    if known:
        changes["gpu"] = known.name
    return read_throughput(plan.changed(**changes))


def _peak_flops_per_second(plan: FineTunePlan, device_name: str) -> float | None:
    """The GPU's dense peak in the type that most of the matrix products are in."""
    gpu = gpu_of_driver(device_name)
    if gpu is None:
        return None
    dtype = plan.weights_dtype if plan.autocast_dtype == "none" else plan.autocast_dtype
    bf16 = gpu.bf16_dense_tflops if gpu.has_bf16 else gpu.fp32_tflops
    tflops = {"bf16": bf16, "fp16": gpu.fp16_dense_tflops, "fp32": gpu.fp32_tflops}[dtype]
    return tflops * 1e12 if tflops else None


def _step(plan: FineTunePlan, measured: MemoryEstimate) -> Step:
    config = resolve_model(plan.model).config
    shape = {
        name: config.get(name) if isinstance(config.get(name), int) else None
        for name in ("hidden_size", "num_hidden_layers", "vocab_size")
    }
    targets = plan.adapter.target_modules
    facts = plan.model_dump(include=set(Step.model_fields) - {"model"})
    own = {
        "model": _public_name(plan.model, config),
        "parameters": measured.parameters.total,
        "trainable": measured.parameters.trainable,
        "adapter_r": plan.adapter.r,
        "adapter_dtype": plan.adapter.dtype,
        "use_dora": plan.adapter.use_dora,
        "num_target_modules": len(targets) if isinstance(targets, tuple) else None,
        "micro_steps": plan.micro_steps_taken,
    }
    return Step.model_validate(facts | shape | own)


def _public_name(name: str, config: dict[str, Any]) -> str:
    """Return a model's id; of what lies on this machine only its architecture and size."""
    if not is_there(Path(name).expanduser()):
        card = find_bundled_model(name)
        return card.id if card else name
    kind = re.sub(r"\W", "", str(config.get("model_type")))[:40]
    layers, width = config.get("num_hidden_layers"), config.get("hidden_size")
    known = isinstance(layers, int) and isinstance(width, int)
    return f"local {kind}, {layers} layers of {width}" if known else f"local {kind}"
