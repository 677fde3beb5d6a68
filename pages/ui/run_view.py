"""One run on the page: live while it goes on, then what it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from estimator.problems import InputError
from pages.ui import charts, show
from pages.ui.finetune_view import show_finetune
from pages.ui.probe_view import show_probe
from pages.ui.run_table import state_badge
from reports.units import GIB, MIB, duration, number
from trainer.finetune_results import FineTuneResult
from trainer.launch import stop
from trainer.results import ProbeResult
from trainer.runs import Run

_POLL_SECONDS = 0.5
_LIVE_ROWS = 500
"""Steps drawn while a run goes on, the newest ones: its file is read at every poll."""


def show_run(run: Run) -> None:
    """Show a run, following it while it goes on."""
    live = not run.status().is_final
    st.fragment(_progress, run_every=_POLL_SECONDS if live else None)(run, live)
    if not live:
        _show_result(run)
    with st.expander("Log and files"):
        st.code("\n".join(run.log_tail(20)) or "(nothing yet)", language=None, wrap_lines=True)
        st.markdown("Everything about this run is in its folder:")
        st.code(str(run.folder), language=None, wrap_lines=True)


def _progress(run: Run, live: bool) -> None:
    status = run.status()
    if live and status.is_final:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        took = duration(status.seconds)
        steps = f"{status.step} of {status.num_steps} steps"
        st.markdown(f"{state_badge(status)} {steps} · {took}")
        if live and st.button("Stop", icon=":material/stop:"):
            with st.spinner("Stopping at the end of this step"):
                stop(run)
            st.rerun()
    if live:
        done = min(1.0, status.step / status.num_steps) if status.num_steps else 0.0
        st.progress(done, text=show.plain(status.activity))
    _curves(run.metrics(last=_LIVE_ROWS if live else None))


def _curves(rows: Sequence[dict[str, Any]]) -> None:
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    held_out = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
    peaks = {row["step"]: size for row in rows if (size := row.get("peak_allocated_bytes"))}
    left, right = st.columns(2)
    if losses:
        with left:
            _curve("**Loss**", losses, "loss")
    if held_out:
        with right:
            _curve("**Validation loss**", held_out, "validation loss")
    if peaks:
        unit, unit_bytes = ("GiB", GIB) if max(peaks.values()) >= GIB else ("MiB", MIB)
        sizes = {step: peak / unit_bytes for step, peak in peaks.items()}
        with right:
            _curve("**Peak allocated memory**, measured", sizes, unit)


def _curve(title: str, values: dict[int, float | None], unit: str) -> None:
    steps, sizes = list(values), list(values.values())
    st.markdown(title)
    st.plotly_chart(
        charts.curve(steps, sizes, unit),
        key=title,
        config=charts.CONFIG,
        alt=f"{unit} over {len(steps)} steps, from {number(sizes[0])} to {number(sizes[-1])}.",
    )


def _show_result(run: Run) -> None:
    status = run.status()
    if status.reason:
        st.warning(show.plain(status.reason))
    try:
        result = run.result()
    except InputError as error:
        show.problems(error, "What this run found cannot be read:")
        return
    if isinstance(result, ProbeResult):
        show_probe(run, result)
    elif isinstance(result, FineTuneResult):
        show_finetune(run, result)
