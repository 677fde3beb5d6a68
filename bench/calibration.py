"""What calibration is worth: each published step of a GPU, calibrated by all the others.

    python bench/calibration.py [--write]

Prints mean and median errors of estimates as they are and calibrated, leave one out, from the
lessons in bench/published/lessons.json. With --write these are made anew from the published rows:
a dry run each, two minutes. Their stack is a range of versions, so they calibrate nobody's GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # bench and tests are not installed with the package

from bench.accuracy_rows import PUBLISHED, Measured, published
from estimator.calibrated import Calibrated, apply
from estimator.calibration import calibrate
from estimator.documents import write_atomic
from estimator.estimate import Basis, Level, MemoryEstimate
from estimator.lesson_files import export_text, import_lessons
from estimator.lessons import Lesson, lesson_from
from estimator.memory import read_formula
from estimator.throughput import read_throughput

LESSONS = PUBLISHED / "lessons.json"
COLLECTED_ON = date(2026, 11, 1)
"""The month in which the rows were collected; they bear no dates of their own."""

NUM_STEPS = {"Tesla T4": 4, "RTX 4080": 3}
"""The RTX 4080's say three; the T4's do not say, but hold optimizer states and settled times."""


_Compared = tuple[float, float, float]
"""What was measured, what was estimated, and what the calibration makes of that."""


@dataclass(frozen=True, slots=True)
class Case:
    """A published step as a lesson, its plan, and both readings of it."""

    lesson: Lesson
    plan_row: Measured
    formula: MemoryEstimate
    dry_run: MemoryEstimate


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of one figure over the held-out rows, as it was and calibrated."""

    figure: str
    plain: list[float]
    calibrated: list[float]


def lesson_of_row(step: Measured, row: dict[str, Any], dry: MemoryEstimate) -> Lesson:
    """Return what a published row would have taught, had it been a probe."""
    formula = read_formula(step.plan)
    context, reserved = row.get("context_bytes"), step.reserved_bytes
    peaks = {
        "basis": "measured",
        "peak_allocated_bytes": step.allocated_bytes,
        "peak_reserved_bytes": reserved,
        "context_bytes": context,
        "total_bytes": reserved + context if reserved and context else None,
    }
    tokens = step.plan.tokens_per_micro_batch
    seconds = row.get("step_seconds") or tokens / row["tokens_per_second"]
    lesson = lesson_from(
        step.plan,
        device="cuda",
        device_name=step.plan.gpu_spec.name,
        measured=formula.model_copy(update=peaks),
        dry_run=dry,
        formula=formula,
        num_steps=NUM_STEPS[step.plan.gpu_spec.name],
        step_seconds=seconds,
        tokens_per_second=tokens / seconds,
        software={},
        tuneplan="0.1.0",
        made_on=COLLECTED_ON,
    )
    stack = dict(part.split() for part in row["software"].split(", "))
    return lesson.model_copy(update={"software": stack})


def write_lessons() -> None:
    """Make the lessons of every row that today's libraries can still be compared with."""
    from trainer.dryrun import dry_run
    from trainer.quiet import quiet_libraries

    quiet_libraries()
    found = []
    for step, row in _rows():
        print(f"reading {step.id}", file=sys.stderr)
        found.append(lesson_of_row(step, row, dry_run(step.plan)))
        gc.collect()  # the model's fake tensors refer to one another
    write_atomic(LESSONS, export_text(tuple(found), COLLECTED_ON))


def _rows() -> Iterator[tuple[Measured, dict[str, Any]]]:
    """Yield the rows with the fields that plans do not have; those kept apart are left out."""
    lines = (PUBLISHED / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    raw = {row["id"]: row for row in map(json.loads, lines)}
    for step in published():
        if step.reserved_bytes:
            yield step, raw[step.id]


def cases(gpu: str) -> list[Case]:
    """Return the steps of one GPU; a dry run is told again from what its lesson kept of it."""
    lessons = import_lessons(LESSONS, COLLECTED_ON, "published rows")
    found = []
    for (step, _), lesson in zip(_rows(), lessons, strict=True):
        if lesson.device_name != gpu or lesson.dry_run is None:
            continue
        formula = read_formula(step.plan)
        kept = lesson.dry_run
        update = {
            "basis": "dry-run",
            "peak_allocated_bytes": kept.allocated_bytes,
            "peak_reserved_bytes": kept.reserved_bytes,
            "context_bytes": kept.context_bytes,
            "total_bytes": kept.total_bytes,
            "bands": {},
        }
        found.append(Case(lesson, step, formula, formula.model_copy(update=update)))
    return found


def leave_one_out(found: list[Case], basis: Basis) -> list[Errors]:
    """Return the errors of each row's estimate, calibrated by the other rows alone."""
    levels: tuple[Level, ...] = ("allocated", "reserved", "total")
    figures: dict[str, Callable[[Lesson, Calibrated], _Compared | None]] = {
        **{level: partial(_size, level=level) for level in levels},
        "step time": _time,
    }
    pairs = [(case, _calibrated(case, found, basis)) for case in found]
    errors = []
    for figure, read in figures.items():
        known = [value for case, one in pairs if (value := read(case.lesson, one))]
        plain = [plain / true - 1 for true, plain, _ in known]
        if known:
            errors.append(Errors(figure, plain, [near / true - 1 for true, _, near in known]))
    return errors


def _calibrated(case: Case, found: list[Case], basis: Basis) -> Calibrated:
    others = [one.lesson for one in found if one is not case]
    plan = case.plan_row.plan
    lesson = case.lesson
    known = calibrate(others, lesson.device_name, lesson.software, today=COLLECTED_ON, plan=plan)
    if known is None:
        raise ValueError(f"no other row of {lesson.device_name}")
    estimate = case.dry_run if basis == "dry-run" else case.formula
    return apply(known, estimate, read_throughput(plan))


def _size(lesson: Lesson, one: Calibrated, *, level: Level) -> _Compared | None:
    sizes = {
        "allocated": lesson.measured.allocated_bytes,
        "reserved": lesson.measured.reserved_bytes,
        "total": lesson.measured.total_bytes,
    }
    true = sizes[level]
    plain, near = one.plain_bytes[level], one.calibrated_bytes.get(level)
    if true is None or plain is None or near is None:
        return None
    return true, plain, near.likely_bytes


def _time(lesson: Lesson, one: Calibrated) -> _Compared | None:
    plain, near = one.plain_step_seconds, one.calibrated_step_seconds
    if lesson.step_seconds is None or plain is None or near is None:
        return None
    return lesson.step_seconds, plain.likely, near.likely


def as_table(gpu: str) -> str:
    """Return the errors of a GPU's rows as a Markdown table."""
    from bench.accuracy_tables import percent, table

    found = cases(gpu)
    rows = []
    for basis in ("formula", "dry-run"):
        for one in leave_one_out(found, basis):
            if one.figure == "step time" and basis == "dry-run":
                continue  # the model of time is one and the same
            name = "time model" if one.figure == "step time" else basis
            cells = [
                [f"{100 * mean(sizes):.2f} %", f"{100 * median(sizes):.2f} %", percent(worst)]
                for sizes, worst in map(_sizes_and_worst, (one.plain, one.calibrated))
            ]
            rows.append([name, one.figure, *cells[0], *cells[1]])
    header = ("reading", "figure", "plain: mean", "median", "worst")
    return table((*header, "calibrated: mean", "median", "worst"), rows, num_words=2)


def _sizes_and_worst(errors: list[float]) -> tuple[list[float], float]:
    return list(map(abs, errors)), max(errors, key=abs)


def main() -> None:
    """Print the table, from lessons made anew where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="make the lessons anew")
    if parser.parse_args().write:
        write_lessons()
    print(as_table("Tesla T4"))


if __name__ == "__main__":
    main()
