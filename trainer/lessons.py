"""This machine's lessons: kept after each probe, and laid beside each estimate."""

from __future__ import annotations

import contextlib
import platform
import re
from datetime import UTC, date, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from estimator.calibrated import Calibrated, apply
from estimator.calibration import calibrate
from estimator.estimate import MemoryEstimate
from estimator.gpu_names import is_same_gpu
from estimator.lesson_files import keep, read_lessons
from estimator.lessons import LIBRARIES, Lesson, lesson_from
from estimator.throughput import Throughput
from trainer.machine import describe_machine
from trainer.results import ProbeResult
from trainer.runs import runs_folder


def calibration_folder() -> Path:
    """Return where lessons are kept: beside the runs."""
    return runs_folder().parent / "calibration"


def today() -> date:
    """Return the day, in UTC."""
    return datetime.now(UTC).date()


def keep_lesson(result: ProbeResult, *, memory_limit_gib: float | None = None) -> Path | None:
    """Keep what a finished probe teaches, and return the file.

    A probe must not fail for what it would have taught: None where nothing was measured, the
    model is gone, tuneplan is not installed or the folder cannot be written.

    Args:
        result: What the probe found.
        memory_limit_gib: The limit it was given, as asked for.
    """
    with contextlib.suppress(ValueError, OSError, PackageNotFoundError):
        lesson = lesson_of(result, has_memory_limit=memory_limit_gib is not None)
        return keep(calibration_folder(), lesson) if lesson else None
    return None


def lesson_of(result: ProbeResult, *, has_memory_limit: bool = False) -> Lesson | None:
    """Return what a probe teaches, None where it measured nothing.

    Raises:
        InputError: The plan's model is not there any more.
    """
    if result.measured is None or not result.num_steps:
        return None
    on_gpu = result.device == "cuda"
    return lesson_from(
        result.plan,
        device=result.device,
        device_name=result.device_name if on_gpu else processor_name(),
        measured=result.measured,
        dry_run=result.dry_run,
        formula=result.formula,
        num_steps=result.num_steps,
        step_seconds=result.step_seconds_median,
        tokens_per_second=result.padded_tokens_per_second or result.tokens_per_second,
        software=result.software,
        tuneplan=version("tuneplan"),
        made_on=today(),
        driver=describe_machine().driver if on_gpu else None,
        had_memory_limit=has_memory_limit,
    )


def calibrate_here(
    estimate: MemoryEstimate, time: Throughput, *, on: date | None = None
) -> Calibrated | None:
    """Return an estimate beside what this machine's probes make of it.

    None where there are no lessons of the plan's GPU with these libraries, or where the plan's
    GPU is not one of this machine's: another machine's driver and cooling are its own.

    Args:
        estimate: As it was read.
        time: How long its step takes by the model.
        on: The day from which the age of lessons is told; today where left out.
    """
    gpu = estimate.plan.gpu_spec.name
    lessons = read_lessons(calibration_folder()).lessons
    lessons = tuple(one for one in lessons if is_same_gpu(one.device_name, gpu))
    if estimate.device != "cuda" or estimate.basis == "measured" or not lessons:
        return None
    if not any(is_same_gpu(here.name, gpu) for here in describe_machine().gpus):
        return None
    software = estimate.software or software_here()
    known = calibrate(lessons, gpu, software, today=on or today(), plan=estimate.plan)
    return apply(known, estimate, time) if known else None


def software_here() -> dict[str, str]:
    """Return the installed versions of the libraries that decide a step, without importing them."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def processor_name() -> str:
    """Return what this machine's processor calls itself."""
    name = ""
    with contextlib.suppress(OSError):
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^model name\s*:\s*(.+)$", facts, flags=re.MULTILINE)
        name = found[1] if found else ""
    words = re.sub(r"[^\w .,:/+@()-]", "", name or platform.machine())
    return f"CPU {' '.join(words.split())}"[:100]
