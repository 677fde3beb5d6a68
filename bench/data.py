"""Measures `tuneplan data check` on many short lines: how long it takes, and how much memory.

python bench/data.py [LINES] [--plan PLAN]      # ten million lines without a plan: some minutes

Half a per cent of the lines repeat an earlier one, and every hundred thousandth is broken, so that
finding them is part of what is measured. The memory is the largest resident size of the process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[1]


def write_lines(path: Path, num_lines: int) -> None:
    """Write a JSONL file of prompts and completions, about 80 bytes a line."""
    with path.open("w", encoding="utf-8") as stream:
        for index in range(num_lines):
            number = index - 100 if index % 200 == 199 else index
            row = {"prompt": f"What is {number} plus one?", "completion": f"It is {number + 1}."}
            stream.write(json.dumps(row)[: 20 if index % 100_000 == 99_999 else None] + "\n")


def measure(path: Path, arguments: list[str]) -> tuple[float, int, dict[str, object]]:
    """Return the seconds a check took, its largest resident size in bytes, and its answer."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "tuneplan", "data", "check", str(path), "--json", *arguments]
    with (
        tempfile.TemporaryFile() as answer,
        subprocess.Popen(command, cwd=PROJECT, stdout=answer) as process,
    ):
        watched, most = psutil.Process(process.pid), 0
        while process.poll() is None:
            try:
                most = max(most, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.02)
        process.wait()
        answer.seek(0)
        return time.perf_counter() - started, most, json.loads(answer.read())


def main() -> None:
    """Write the lines, check them, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=int, nargs="?", default=10_000_000)
    parser.add_argument("--plan", default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.jsonl"
        write_lines(path, asked.lines)
        size = path.stat().st_size
        seconds, most, answer = measure(path, ["--plan", asked.plan] if asked.plan else [])
    found = {finding["kind"]: finding["num"] for finding in answer["findings"]}  # type: ignore[union-attr,index]  JSON
    print(f"{asked.lines:,} lines, {size / 1e6:,.0f} MB: {seconds:,.0f} s, {most / 2**20:,.0f} MiB")
    print(f"per line: {seconds / asked.lines * 1e6:.1f} us, {most / asked.lines:.0f} bytes")
    print(f"found: {found}")


if __name__ == "__main__":
    main()
