"""Runs as a list: what each was, how it went, and the way into it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from estimator.problems import InputError
from pages.ui.navigation import PROVE
from pages.ui.show import method_name, plain
from reports.units import duration, gib
from trainer.launch import stop
from trainer.results import ProbeResult
from trainer.run_status import RunStatus
from trainer.runs import Run

_STATES = {
    "starting": ":gray-badge[starting]",
    "running": ":blue-badge[running]",
    "finished": ":green-badge[finished]",
    "stopped": ":orange-badge[stopped]",
    "failed": ":red-badge[failed]",
    "out_of_memory": ":red-badge[out of memory]",
}


def state_badge(status: RunStatus) -> str:
    """Return a run's state as a coloured word, in Markdown."""
    return _STATES[status.state]


def show_runs(runs: Sequence[Run]) -> None:
    """Show each run in a box of its own, which reads as well on a phone as on a desk."""
    for run in runs:
        with st.container(border=True):
            _show_row(run)


def _show_row(run: Run) -> None:
    status = run.status()
    with st.container(horizontal=True, vertical_alignment="center"):
        label = f"{state_badge(status)} {_title(run)}"
        st.page_link(PROVE, label=label, query_params={"run": run.id})
        if not status.is_final and st.button("Stop", key=f"stop_{run.id}"):
            with st.spinner("Stopping at the end of this step"):
                stop(run)
            st.rerun()
    parts = [f"started {status.started_at:%Y-%m-%d %H:%M} UTC", f"took {duration(status.seconds)}"]
    if not status.is_final:
        parts[1] = status.activity
    if peak := _measured_peak(run):
        parts.append(f"measured peak {peak}")
    st.caption(" · ".join([*parts, run.id]))
    if status.reason:
        st.caption(plain(status.reason))


def _title(run: Run) -> str:
    try:
        plan = run.request().plan
    except InputError:
        return "unreadable request"
    return f"**{method_name(plan.method)}** of {plain(Path(plan.model).name)}"


def _measured_peak(run: Run) -> str:
    try:
        result = run.result()
    except InputError:
        return ""
    measured = result.measured if isinstance(result, ProbeResult) else None
    return gib(measured.peak_allocated_bytes) if measured else ""
