"""How long the parts take that people wait for: one JSON line each.

    python bench/speed.py [--repeats N]

Times are medians, with the fastest and the slowest beside them; ratios are to the formula.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from estimator.memory import read_formula
from estimator.plan import FineTunePlan, load_plan, parse_plan
from trainer.launch import dry_run

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def timed(work: Callable[[], Any], repeats: int) -> list[float]:
    """Return how many seconds each of several calls took."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return seconds


def tell(name: str, seconds: list[float], **facts: Any) -> None:
    """Print one measurement as a line of JSON."""
    line = {
        "name": name,
        "count": len(seconds),
        "median_seconds": round(median(seconds), 6),
        "min_seconds": round(min(seconds), 6),
        "max_seconds": round(max(seconds), 6),
    }
    print(json.dumps(line | facts), flush=True)


def command_line(*arguments: str) -> None:
    """Run the command line as a person would."""
    command = [sys.executable, "-m", "tuneplan", *arguments]
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


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="dry runs and command lines")
    repeats = parser.parse_args().repeats
    machine = {"cpu_cores": os.cpu_count(), "python": platform.python_version()}
    textbook = load_plan(EXAMPLES / "llama-2-7b.yaml")
    plans: list[FineTunePlan] = [textbook.changed(method=m) for m in ("full", "lora", "qlora")]
    plans.append(textbook.changed(model="meta-llama/Llama-3.1-8B", method="qlora", seq_len=2048))

    tell("tuneplan --help", timed(lambda: command_line("--help"), repeats), **machine)
    path = str(EXAMPLES / "llama-2-7b.yaml")
    tell("tuneplan estimate", timed(lambda: command_line("estimate", path), repeats), **machine)
    many = many_plans(10_000)
    tell("10,000 formula estimates", timed(lambda: estimate_all(many), 1), **machine)
    for plan in plans:
        facts = machine | {"model": plan.model, "method": plan.method, "seq_len": plan.seq_len}
        read_formula(plan)  # the first call reads the catalogue
        formula = timed(lambda plan=plan: read_formula(plan), 100)
        tell("formula", formula, **facts)
        traced = timed(lambda plan=plan: dry_run(plan), repeats)
        ratio = round(median(traced) / median(formula))
        tell("dry run, with its process", traced, times_the_formula=ratio, **facts)


if __name__ == "__main__":
    main()
