"""Runs and the machine as Rich renderables."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from estimator.plan import FineTunePlan
from reports import terminal_finetune, terminal_search
from reports.terminal import readings
from reports.terminal_probe import ways_on
from reports.units import duration, gib, number
from reports.words import gpu_memory
from trainer.finetune_results import FineTuneResult
from trainer.machine import Machine
from trainer.requests import command_of
from trainer.results import ProbeResult
from trainer.run_status import RunStatus
from trainer.runs import Run
from trainer.search_results import SearchResult

_STATE_STYLES = {"finished": "green", "failed": "red", "out_of_memory": "yellow"}
_NUM_ROWS = 12


def runs(found: Sequence[Run]) -> RenderableType:
    """Show a list of runs, two lines each: an id of any length stays whole, and so does a state."""
    if not found:
        return Text("No runs yet. Start one with `tuneplan probe PLAN`.")
    lines: list[Text] = []
    for run_ in found:
        status = run_.status()
        state = _state(status)
        state.pad_right(len("out of memory") - len(state))
        line = Text.assemble(f"  {status.kind:<8}  ", state, f"  {duration(status.seconds):>11}")
        if not status.is_final:
            line.append(f"  {status.activity}", "dim")
        lines += [Text(run_.id, "bold", no_wrap=True, overflow="ignore"), line]
    return Group(*lines)


def run(run_: Run) -> RenderableType:
    """Show one run: what was asked, how it goes, and what it found."""
    status = run_.status()
    facts = _facts()
    facts.add_row("state", _state(status))
    if status.reason:
        facts.add_row("reason", Text(status.reason))
    facts.add_row("at", Text(f"{status.activity} (step {status.step} of {status.num_steps})"))
    facts.add_row("started", f"{status.started_at.astimezone():%Y-%m-%d %H:%M:%S}")
    facts.add_row("took", duration(status.seconds))
    if not status.is_final and status.pid:
        facts.add_row("process", str(status.pid))
    facts.add_row("folder", Text(str(run_.folder)))
    command = Text(shlex.join(command_of(run_.request(), _plan_path(run_))))
    command.no_wrap, command.overflow = True, "ignore"  # broken over lines it could not be pasted
    parts: list[RenderableType] = [Text(run_.id, style="bold"), facts, command]
    rows = run_.metrics(last=_NUM_ROWS)
    if rows:
        parts.append(_metrics(rows))
    result = run_.result()
    if isinstance(result, ProbeResult):
        parts += [readings([result]), ways_on(run_, result)]
    elif isinstance(result, SearchResult):
        parts.append(terminal_search.search(result, run_))
    elif result:
        parts.append(terminal_finetune.finetune(result, run_.folder))
    elif status.state == "failed" and run_.log_tail(1):
        parts += ["", Text("The end of its log", style="bold"), Text("\n".join(run_.log_tail(10)))]
    return Group(*parts)


def _plan_path(run_: Run) -> str:
    return str(run_.folder / "plan.json")


def plan_differences(plans: Sequence[FineTunePlan]) -> dict[str, list[Any]]:
    """Return the dotted keys in which plans differ, each with its value in every plan."""
    flat = [dict(_flat(plan.to_document())) for plan in plans]
    keys = dict.fromkeys(key for one in flat for key in one)
    values = {key: [one.get(key) for one in flat] for key in keys}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def _flat(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def side_by_side(found: Sequence[Run], differences: dict[str, list[Any]]) -> RenderableType:
    """Show in what the plans of several runs differ, and what each run took."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("")
    for index in range(1, len(found) + 1):
        table.add_column(f"run {index}", justify="right", overflow="fold")
    table.add_row("state", *(_state(one.status()) for one in found))
    for key, values in differences.items():
        table.add_row(key, *(escape(str(value)) for value in values))
    names = [Text(f"run {index}: {one.id}") for index, one in enumerate(found, start=1)]
    results = [one.result() for one in found]
    probes = [result for result in results if isinstance(result, ProbeResult)]
    finetunes = [result for result in results if isinstance(result, FineTuneResult)]
    return Group(
        *names,
        table,
        *([readings(probes)] if probes else []),
        *([terminal_finetune.side_by_side(finetunes)] if finetunes else []),
    )


def machine(found: Machine) -> RenderableType:
    """Show what a machine can do, with what is missing."""
    facts = _facts()
    facts.add_row("python", f"{found.python} on {found.system}")
    for name, installed in found.software.items():
        facts.add_row(name, installed or Text("not installed", style="red"))
    facts.add_row("CPU", f"{found.cpu_cores} cores")
    available = f"{gib(found.memory_bytes)}, {gib(found.available_bytes)} available"
    facts.add_row("memory", available)
    driver = f"NVIDIA {found.driver}, CUDA up to {found.cuda}" if found.driver else "none answers"
    facts.add_row("GPU driver", driver)
    for gpu in found.gpus:
        facts.add_row("GPU", f"{gpu.name}, {gpu_memory(gpu)}")
    if not found.gpus:
        facts.add_row("GPU", "none: probes run on the CPU; estimates need no GPU")
    writable = "" if found.runs_folder_writable else ", NOT WRITABLE: set TUNEPLAN_HOME"
    space = f"{found.runs_folder} ({gib(found.disk_free_bytes)} free{writable})"
    facts.add_row("runs", Text(space, style="" if found.runs_folder_writable else "red"))
    return Group(Text("This machine", style="bold"), facts)


def _facts() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _metrics(rows: Sequence[dict[str, Any]]) -> Table:
    """Show steps with what was measured at each; what is known of none has no column."""
    steps: dict[int, dict[str, Any]] = {}
    for row in rows:  # a step's validation loss is told in a row of its own
        steps.setdefault(row["step"], {}).update(row)
    columns: list[tuple[str, str, Callable[[Any], str]]] = [
        ("loss", "loss", lambda loss: number(loss, 4)),
        ("validation loss", "validation_loss", lambda loss: number(loss, 4)),
        ("time", "step_seconds", duration),
        ("tokens/s", "tokens_per_second", lambda speed: number(speed, 0)),
        ("peak allocated", "peak_allocated_bytes", gib),
    ]
    known = [one for one in columns if any(row.get(one[1]) is not None for row in steps.values())]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in ("step", *(heading for heading, _, _ in known)):
        table.add_column(heading, justify="right")
    for step, row in steps.items():
        shown = ("" if row.get(key) is None else words(row[key]) for _, key, words in known)
        table.add_row(str(step), *shown)
    return table


def _state(status: RunStatus) -> Text:
    return Text(status.state.replace("_", " "), style=_STATE_STYLES.get(status.state, ""))
