"""Runs that wait for a device: they say for whom, and go on when it is free."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from estimator.plan import FineTunePlan
from trainer.ending import StoppedEarly
from trainer.results import ProbeRequest
from trainer.run_queue import its_turn
from trainer.run_writer import create_run
from trainer.runs import Run

PROJECT = Path(__file__).resolve().parents[1]
REQUEST = ProbeRequest(plan=FineTunePlan(model="meta-llama/Llama-2-7b-hf", method="lora"))

HOLD = """
import sys
from pathlib import Path
from trainer.run_queue import its_turn
from trainer.runs import Run

with its_turn(Run(Path(sys.argv[1])), "cpu", on_wait=print, should_stop=lambda: False):
    print("holds it", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by(run: Run) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the CPU for a run, until it is told or killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.folder)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds it\n"
        yield holder
        holder.kill()


@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_the_next_goes_on_when_the_holder(end: str) -> None:
    first, second = create_run(REQUEST), create_run(REQUEST)
    told: list[str] = []
    with held_by(first) as holder:

        def on_wait(who: str) -> None:
            told.append(who)
            holder.kill() if end == "is killed" else holder.stdin.close()  # type: ignore[union-attr]

        with its_turn(second, "cpu", on_wait=on_wait, should_stop=lambda: False):
            assert holder.wait(10) == (-9 if end == "is killed" else 0)
    assert told == [first.id]


def test_another_device_is_free() -> None:
    first, second = create_run(REQUEST), create_run(REQUEST)
    told: list[str] = []
    with (
        held_by(first),
        its_turn(second, "gpu-GPU-1/2", on_wait=told.append, should_stop=lambda: False),
    ):
        assert told == []


def test_a_stop_is_heard_while_waiting() -> None:
    first, second = create_run(REQUEST), create_run(REQUEST)
    began = time.monotonic()
    with (
        held_by(first),
        pytest.raises(StoppedEarly, match="while it waited for its turn"),
        its_turn(second, "cpu", on_wait=lambda _: None, should_stop=lambda: True),
    ):
        pass
    assert time.monotonic() - began < 20
