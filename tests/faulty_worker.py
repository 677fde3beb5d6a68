"""Workers that meet a fault on their way: real ones, forked from a process that has torch already.

A fault is a function that is called in the worker's process before its work begins, with the run's
folder. It arranges for something to go wrong at one place.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from trainer.run_writer import RunWriter
from trainer.runs import Run

Fault = Callable[[Path], None]
GO_ON = "go-on"
"""The file in a run's folder that a paused worker waits for."""

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["trainer.worker", "trainer.finetune"])


def start(run: Run, fault: Fault | None = None) -> BaseProcess:
    """Start a worker on a run, with a fault ahead of it."""
    process = _FORKS.Process(target=_work, args=(run.folder, fault, dict(os.environ)))
    process.start()
    return process


def run_to_end(run: Run, fault: Fault | None = None) -> int | None:
    """Let a worker do its work, and return its exit status; below zero is a signal."""
    process = start(run, fault)
    process.join(120)
    return process.exitcode


def _work(folder: Path, fault: Fault | None, environment: dict[str, str]) -> None:
    from trainer import ending, worker
    from trainer.quiet import quiet_libraries

    os.environ.update(environment)
    log = os.open(folder / "log.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(log, stream)
    quiet_libraries()
    ending.listen()
    if fault:
        fault(folder)
    sys.exit(worker.work(folder))


def kill(*_: Any, **__: Any) -> None:
    """What ends a process without a word: `kill -9`, the system short of memory, a power cut."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(step: int, act: Callable[[Path], None]) -> None:
    """Act when a step has been taken, just before its line is written."""
    write = RunWriter.metric

    def metric(self: RunWriter, row: dict[str, Any]) -> None:
        if row["step"] == step and "loss" in row:
            act(self.folder)
        write(self, row)

    RunWriter.metric = metric


def at_activity(start: str, act: Callable[[Path], None]) -> None:
    """Act when the worker says that it begins something."""
    write = RunWriter.status

    def status(self: RunWriter, **changes: Any) -> None:
        if changes.get("activity", "").startswith(start):
            act(self.folder)
        write(self, **changes)

    RunWriter.status = status


def ask_to_stop(folder: Path) -> None:
    Run(folder).request_stop()


def pause(folder: Path) -> None:
    while not (folder / GO_ON).exists():
        time.sleep(0.02)


def fill_disk(folder: Path) -> None:
    """Leave not a byte free on the disk that a run is on."""
    with filler(folder).open("wb", buffering=0) as stream:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                continue


def filler(folder: Path) -> Path:
    """What fills the disk."""
    return folder.parents[1] / "filler"


def killed_at_load(_: Path) -> None:
    from trainer import finetune_job

    finetune_job.load_pretrained = kill


def killed_in_a_step(_: Path) -> None:
    """In the fifth, between backward and optimizer."""
    from trainer.training_loop import PlannedTrainer

    take = PlannedTrainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *more: Any) -> Any:
        loss = take(self, model, inputs, *more)
        if self.state.global_step == 4:
            kill()
        return loss

    PlannedTrainer.training_step = training_step


def killed_in_a_checkpoint(_: Path) -> None:
    """In that of step 4: weights are written, the optimizer is not."""
    from trainer.training_loop import PlannedTrainer

    write = PlannedTrainer._save_optimizer_and_scheduler

    def save(self: Any, *of: Any) -> None:
        if self.state.global_step == 4:
            kill()
        write(self, *of)

    PlannedTrainer._save_optimizer_and_scheduler = save


def killed_while_saving(_: Path) -> None:
    """The final model's weights are written, its card is not."""
    from trainer import finetune_saving

    finetune_saving.model_card = kill


def full_at_a_step(_: Path) -> None:
    at_step(3, fill_disk)


def full_in_a_checkpoint(_: Path) -> None:
    """Somebody else fills the disk after room was looked for."""
    from trainer.untyped import transformers

    write = transformers.Trainer._save_checkpoint

    def save(self: Any, *of: Any) -> None:
        if self.state.global_step == 4:
            fill_disk(Path(self.args.output_dir).parent)
        write(self, *of)

    transformers.Trainer._save_checkpoint = save


def full_while_saving(folder: Path) -> None:
    from trainer import finetune_saving

    write = finetune_saving.model_card

    def card(*of: Any) -> str:
        fill_disk(folder)
        return write(*of)

    finetune_saving.model_card = card


def told_to_end(_: Path) -> None:
    at_step(3, lambda _: os.kill(os.getpid(), signal.SIGTERM))


def stopped_before_training(_: Path) -> None:
    at_activity("evaluating before", ask_to_stop)


def stopped_after_training(_: Path) -> None:
    at_activity("evaluating after", ask_to_stop)


def paused(_: Path) -> None:
    at_step(1, pause)


def damaged_at_the_end(_: Path) -> None:
    """Before the line of step 12 every checkpoint so far loses a bit."""

    def damage(folder: Path) -> None:
        for file in (folder / "checkpoints").glob("*/*.safetensors"):
            flip_a_bit(file)

    at_step(12, damage)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
