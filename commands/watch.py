"""Progress on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from reports.differences import differences
from reports.probe_facts import commands
from reports.units import gib
from trainer import launch
from trainer.remote_code import warning
from trainer.requests import Request, Result
from trainer.results import ProbeRequest, ProbeResult
from trainer.run_status import RunStatus
from trainer.runs import Run


class Progress:
    """Shows what is being done, and how far it is where that is known."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = Console(stderr=True, highlight=False)
        self._said = ""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
        )
        self._bar = Bar(*columns, console=self._console, transient=True)
        self._task = self._bar.add_task(title, total=None)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, text: str, step: int = 0, num_steps: int = 0) -> None:
        """Show ``text``; with ``num_steps`` also how many of them are done."""
        if text == self._said:
            return
        self._said = text
        line = f"{self._title}: {text}"
        if self._console.is_terminal:
            total = num_steps if step else None
            self._bar.update(self._task, description=line, completed=step, total=total)
        else:
            self._console.print(line, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""
        self._console.print(text, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run that is over (or was looked at), with what it found."""

    run: Run
    status: RunStatus
    result: Result | None

    @classmethod
    def of(cls, run: Run) -> Outcome:
        """Read a run's outcome from its folder."""
        return cls(run, run.status(), run.result())

    @property
    def is_good(self) -> bool:
        """Whether the run did what was asked, as far as it was let."""
        return self.status.state in ("finished", "stopped")

    @property
    def exit_status(self) -> int:
        """0 done, 1 failed or out of memory, 2 the input is wrong."""
        if self.is_good:
            return 0
        return 2 if self.status.input_is_wrong else 1

    @property
    def sentence(self) -> str:
        """The outcome in a line."""
        state = self.status.state.replace("_", " ")
        return f"{self.run.id}: {state}. {self.status.reason}".rstrip()

    def to_document(self) -> dict[str, Any]:
        """Return the run, its state and its result as plain JSON values."""
        head = {"run": self.run.id, "folder": str(self.run.folder)}
        status = self.status.model_dump(mode="json")
        found = self.result.to_document() if self.result else {}
        if isinstance(self.result, ProbeResult):
            found["differences"] = [one.to_document() for one in differences(self.result)]
            found["commands"] = commands(self.run, self.result)
        return found | head | status


def run_probe(request: ProbeRequest) -> Outcome:
    """Start a probe and watch it to its end."""
    return start_run(request)


def start_run(request: Request) -> Outcome:
    """Start a run and watch it to its end; Ctrl-C stops it at the end of its step.

    Where what was asked for turns out wrong, nothing of the run is left but the outcome.
    """
    outcome = _watched(launch.start(request), request)
    if outcome.status.input_is_wrong:
        shutil.rmtree(outcome.run.folder, ignore_errors=True)
    return outcome


def resume_run(run: Run) -> Outcome:
    """Take up a run that has ended, and watch it to its end as :func:`start_run` does."""
    return _watched(launch.resume(run), run.request())


def _watched(run: Run, request: Request) -> Outcome:
    with Progress(f"{request.plan.method} {request.kind}") as progress:
        if request.trust_remote_code:
            progress.note(f"WARNING: {warning(request.plan.model)}")

        def show(status: RunStatus) -> None:
            rows = [row for row in run.metrics(last=3) if row["step"] == status.step]
            text = status.activity
            if rows and status.state == "running" and text.startswith("step"):
                loss, peak = rows[0].get("loss"), rows[0].get("peak_allocated_bytes")
                text += "" if loss is None else f", loss {loss:.3f}"
                text += "" if peak is None else f", peak {gib(peak)}"
            progress(text, status.step, status.num_steps)

        try:
            launch.wait(run, show)
        except KeyboardInterrupt:
            run.request_stop()  # first of all: a second Ctrl-C may come at once
            progress("stopping at the end of the step")
            status = launch.stop(run)
            if not status.is_final:
                state = f"asked to stop, at: {status.activity}"
                progress.note(f"{run.id}: {state}; see `tuneplan runs show {run.id}`")
                raise
    return Outcome.of(run)
