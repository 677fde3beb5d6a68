"""Runs a matrix of probes on this machine's CUDA GPU and keeps what they measured.

    python bench/gpu.py [--model ID ...] [--steps N] [--quick]

Each probe appends one JSON line (plan, measured, dry run, formula, versions, GPU, driver) to
bench/results/GPU-NAME.jsonl at once, so that an interrupted matrix loses nothing. Weights are
random unless they are on this machine: memory and time do not depend on their values.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from estimator.plan import FineTunePlan, parse_plan
from estimator.problems import InputError
from estimator.validation import validate
from trainer import launch
from trainer.machine import describe_machine
from trainer.results import ProbeRequest

RESULTS = Path(__file__).resolve().parent / "results"
MODELS = (
    "HuggingFaceTB/SmolLM2-135M",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "meta-llama/Llama-3.2-3B",
    "meta-llama/Llama-3.1-8B",
)
METHODS = ("full", "lora", "qlora")
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"gradient_checkpointing": False, "seq_len": 512},
    {"micro_batch_size": 4, "seq_len": 1024, "gradient_accumulation_steps": 1},
    {"attention": "eager", "seq_len": 1024},
    {"weights_dtype": "fp32", "seq_len": 512},
    {"padded": True, "seq_len": 1024},
    {"optimizer": "adamw_8bit", "seq_len": 1024},
    {"keep_outputs": True, "max_grad_norm": None, "optimizer": "adamw_torch_foreach"},
)


def matrix(models: list[str], quick: bool) -> Iterator[FineTunePlan]:
    """Yield the plans to run, the plain ones of every model first."""
    variants = VARIANTS[:1] if quick else VARIANTS
    for variant, model, method in itertools.product(variants, models, METHODS):
        keys = {"model": model, "method": method, "gradient_accumulation_steps": 2}
        yield parse_plan(keys | variant)


def main() -> int:
    """Run the matrix; return 1 where there is no CUDA GPU, 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="instead of the built-in list")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="plain plans only")
    arguments = parser.parse_args()
    machine = describe_machine()
    if not machine.gpus:
        print("no NVIDIA GPU answers on this machine: nothing to measure", file=sys.stderr)
        return 1
    plans = list(matrix(arguments.model or list(MODELS), arguments.quick))
    document = {"plan": plans[0], "num_steps": arguments.steps, "device": "cuda"}
    try:
        request = validate(ProbeRequest, document, "probe")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    name = re.sub(r"[^a-z0-9]+", "-", machine.gpus[0].name.lower()).strip("-")
    path = RESULTS / f"{name}.jsonl"
    RESULTS.mkdir(exist_ok=True)
    for plan in plans:
        run = launch.start(request.model_copy(update={"plan": plan}))
        status = launch.wait(run)
        result = run.result()
        if result is None:
            print(f"{run.id}: {status.state}: {status.reason}", file=sys.stderr)
            continue
        row = {
            "run": run.id,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "driver": machine.driver,
            "result": result.to_document(),
        }
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        print(_told(run.id, result), flush=True)
    return 0


def _told(run_id: str, result: Any) -> str:
    if result.measured is None:
        return f"{run_id}: out of memory"
    measured = result.measured.peak_allocated_bytes
    errors = [
        f"{name} {estimate.peak_allocated_bytes / measured - 1:+.2%}"
        for name, estimate in (("dry run", result.dry_run), ("formula", result.formula))
        if estimate is not None
    ]
    return f"{run_id}: {measured:,} bytes; {', '.join(errors)}"


if __name__ == "__main__":
    sys.exit(main())
