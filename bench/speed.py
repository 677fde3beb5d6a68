"""How long the parts take that people wait for, and how much RAM a dry run takes.

    python bench/speed.py [--repeats N] [--write]

Prints a JSON line for each, then a table with what is asked of them (bench/speed.yaml). Times are
medians, with the fastest and the slowest beside them, and the processor's time. --write makes
docs/speed.md anew; let nothing else run on the machine then.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import psutil

from estimator.documents import read_document, write_atomic
from estimator.memory import read_formula
from estimator.plan import FineTunePlan, load_plan, parse_plan
from trainer.launch import worker_environment

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "speed.md"
EXAMPLE = HERE.parent / "examples" / "llama-2-7b.yaml"
TINY = HERE.parent / "examples" / "tiny.yaml"
GB = 10**9
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # in which getrusage counts


@dataclass(frozen=True, slots=True)
class Timing:
    """Something that was done several times, in seconds or, for RAM, in GB of 10^9 bytes."""

    name: str
    unit: str
    count: int
    median: float
    least: float
    most: float
    processor: float | None
    limit: float

    @property
    def is_met(self) -> bool:
        """Whether the median is what is asked for."""
        return self.median <= self.limit


@dataclass(frozen=True, slots=True)
class Took:
    """How long something took, by the clock and of the processor, in seconds."""

    seconds: float
    processor_seconds: float


def timing(name: str, took: list[Took], limit: float) -> Timing:
    """Return several times of one thing as one record."""
    processor = round(median(one.processor_seconds for one in took), 3)
    return _record(name, "s", [one.seconds for one in took], processor, limit)


def _record(
    name: str, unit: str, values: list[float], processor: float | None, limit: float
) -> Timing:
    numbers = (round(median(values), 3), round(min(values), 3), round(max(values), 3))
    return Timing(name, unit, len(values), *numbers, processor, limit)


def timed(work: Callable[[], Any], repeats: int) -> list[Took]:
    """Return how long each of several calls took, child processes included."""
    took = []
    for _ in range(repeats):
        before, begin = os.times(), time.perf_counter()
        work()
        seconds, after = time.perf_counter() - begin, os.times()
        took.append(Took(seconds, sum(after[:4]) - sum(before[:4])))
    return took


def cold_estimate() -> None:
    """Run `tuneplan estimate` as a person would."""
    command = [sys.executable, "-m", "tuneplan", "estimate", str(EXAMPLE)]
    subprocess.run(command, check=True, capture_output=True)


def many_plans(count: int) -> list[FineTunePlan]:
    """Return plans of several models, methods, batches and lengths, always the same ones."""
    draw = Random(0)
    models = (
        "meta-llama/Llama-2-7b-hf",
        "meta-llama/Llama-3.1-8B",
        "Qwen/Qwen2.5-1.5B",
        "Qwen/Qwen3-32B",
        "mistralai/Mistral-7B-v0.1",
        "google/gemma-2-2b",
        "openai-community/gpt2-xl",
    )
    return [
        parse_plan(
            {
                "model": draw.choice(models),
                "method": draw.choice(("full", "lora", "qlora")),
                "gpu": draw.choice(("RTX 4090", "A100 80GB SXM", "H100 SXM 80GB")),
                "adapter": {"r": draw.choice((8, 16, 64))},
                "optimizer": draw.choice(("adamw_torch_fused", "adamw_8bit")),
                "gradient_checkpointing": draw.choice((True, False)),
                "micro_batch_size": draw.randint(1, 32),
                "seq_len": draw.choice((512, 1024)),
            }
        )
        for _ in range(count)
    ]


def estimate_all(plans: list[FineTunePlan]) -> None:
    """Read every plan by the formula."""
    for plan in plans:
        read_formula(plan)


@dataclass(frozen=True, slots=True)
class Case:
    """What one process took that made dry runs."""

    dry_runs: list[Took]
    process: Took
    peak_ram_bytes: int


def run_case(request: dict[str, Any]) -> Case:
    """Make dry runs in a fresh process; the request is the one of bench/speed_case.py.

    Raises:
        CalledProcessError: The process failed.
    """
    begin = time.perf_counter()
    command = [sys.executable, str(HERE / "speed_case.py")]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=worker_environment(),
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a pipe was asked for")
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
        answer = process.stdout.read()
        # Of this child alone; it counts this process's memory too, which is small.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    took = Took(time.perf_counter() - begin, usage.ru_utime + usage.ru_stime)
    return Case([Took(*one) for one in json.loads(answer)], took, usage.ru_maxrss * RSS_UNIT)


def dry_runs(asked: dict[str, Any], repeats: int) -> Iterator[Timing]:
    """Time the dry runs of each plan: quick and whole, in a warm worker and in a fresh process."""
    tiny = load_plan(TINY).changed(method="qlora").to_document()
    for row in asked["dry_runs"]:
        plan = parse_plan(row["plan"]).to_document()
        for way in ("quick", "whole"):
            name, limit = f"{row['name']}, {way}", row[f"{way}_seconds"]
            request = {"plan": plan, "whole": way == "whole"}
            warm = run_case(request | {"repeats": repeats, "warm_up": tiny})
            yield timing(f"{name}: dry run, libraries imported", warm.dry_runs, limit)
            cold = [run_case(request | {"repeats": 1}) for _ in range(repeats)]
            took = [case.process for case in cold]
            yield timing(f"{name}: dry run with its own process", took, limit)
            ram = [case.peak_ram_bytes / GB for case in cold]
            limit = asked["dry_run_ram_gb"]
            yield _record(f"{name}: peak RAM of that process", "GB", ram, None, limit)


def measure(repeats: int) -> Iterator[Timing]:
    """Measure everything, one thing at a time."""
    asked = read_document(HERE / "speed.yaml")
    # first the processes: what this one holds counts as theirs
    yield from dry_runs(asked, repeats)
    cold_estimate()  # the first one fills the file cache
    took = timed(cold_estimate, repeats)
    yield timing("`tuneplan estimate`, cold start", took, asked["estimate_seconds"])
    plans = many_plans(asked["formula_plans"])
    took = timed(lambda: estimate_all(plans), 1)
    yield timing(f"{len(plans):,} formula estimates", took, asked["formula_seconds"])


def as_markdown(timings: list[Timing]) -> str:
    """Return the measurements as a table, with what is asked beside them."""
    lines = [
        "| what | median | from | to | processor | runs | asked | met |",
        "| --- | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for one in timings:
        processor = "-" if one.processor is None else f"{one.processor:.2f} s"
        lines.append(
            f"| {one.name} | {one.median:.2f} {one.unit} | {one.least:.2f} | {one.most:.2f} "
            f"| {processor} | {one.count} | {one.limit:g} {one.unit} "
            f"| {'yes' if one.is_met else '**no**'} |"
        )
    return "\n".join(lines)


def machine(load: float) -> str:
    """Return what this was measured on, in words."""
    memory = psutil.virtual_memory().total / GB
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GB of RAM, no GPU needed, "
        f"Python {platform.python_version()}, load {load:.1f} at the start"
    )


def main() -> None:
    """Measure, print, and write the page where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="make docs/speed.md anew")
    arguments = parser.parse_args()
    where = machine(os.getloadavg()[0])
    timings = []
    for one in measure(arguments.repeats):
        print(json.dumps(asdict(one) | {"is_met": one.is_met}), flush=True)
        timings.append(one)
    print(f"\n{as_markdown(timings)}")
    if arguments.write:
        template = (HERE / "speed.template.md").read_text(encoding="utf-8")
        today = datetime.now(UTC).date()
        page = template.format(date=today, machine=where, table=as_markdown(timings))
        write_atomic(PAGE, page)


if __name__ == "__main__":
    main()
