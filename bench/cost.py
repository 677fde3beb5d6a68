"""How long `tuneplan cost` takes: reckoned in a process that is warm, and from a cold start.

    python bench/cost.py [--repeats N]

Prints a JSON line for each: the median, the fastest and the slowest, in seconds, and the
processor's own time. What is asked: under 1 s with 1,000 draws.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from advisor.costs import reckon_costs
from advisor.scenario import load_scenario

PROJECT = Path(__file__).resolve().parents[1]
SCENARIO = PROJECT / "examples" / "support-bot.yaml"


def main() -> None:
    """Time both, and print what was found."""
    parser = argparse.ArgumentParser(description="Time `tuneplan cost`.")
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    scenario, today = load_scenario(SCENARIO), datetime.now(tz=UTC).date()
    _time("warm, 1,000 draws", lambda: reckon_costs(scenario, today=today), repeats)
    _time("warm, 10,000 draws", lambda: reckon_costs(scenario, today=today, draws=10_000), repeats)
    _time("cold, 1,000 draws", _cold, repeats)


def _cold() -> None:
    command = [sys.executable, "-m", "tuneplan", "cost", str(SCENARIO), "--json"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL)


def _time(what: str, do: Callable[[], object], repeats: int) -> None:
    seconds, processor = [], []
    for _ in range(repeats):
        began, used = time.perf_counter(), _processor_seconds()
        do()
        seconds.append(time.perf_counter() - began)
        processor.append(_processor_seconds() - used)
    row = {
        "what": what,
        "median_seconds": round(median(seconds), 3),
        "fastest_seconds": round(min(seconds), 3),
        "slowest_seconds": round(max(seconds), 3),
        "processor_seconds": round(median(processor), 3),
    }
    print(json.dumps(row))


def _processor_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)


if __name__ == "__main__":
    main()
