"""One run on the page: live while it goes on, then what it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from estimator.estimate import MemoryEstimate
from estimator.problems import InputError
from pages.ui import charts, show
from pages.ui.run_table import state_badge
from reports.units import GIB, MIB, count, duration, gib, number, percent
from reports.words import CHANGES_THAT_FIT, step_size, what_was_lacking
from trainer.launch import stop
from trainer.results import OutOfMemory, ProbeResult
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
    if not rows:
        return
    steps = [row["step"] for row in rows]
    losses = [row["loss"] for row in rows]
    peaks = [row["peak_allocated_bytes"] for row in rows]
    unit, unit_bytes = ("GiB", GIB) if max(peaks) > GIB // 10 else ("MiB", MIB)
    left, right = st.columns(2)
    with left:
        st.markdown("**Loss**")
        st.plotly_chart(
            charts.curve(steps, losses, "loss"),
            key="loss",
            config=charts.CONFIG,
            alt=f"Loss over {len(steps)} steps, from {number(losses[0])} to {number(losses[-1])}.",
        )
    with right:
        st.markdown("**Peak allocated memory**, measured")
        st.plotly_chart(
            charts.curve(steps, [peak / unit_bytes for peak in peaks], unit),
            key="memory",
            config=charts.CONFIG,
            alt=f"Peak memory of {len(steps)} steps, at most {gib(max(peaks))}.",
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
    if result is None:
        return
    if result.out_of_memory:
        _show_out_of_memory(result.out_of_memory)
    _show_readings(result)


def _show_out_of_memory(found: OutOfMemory) -> None:
    st.error(show.plain(f"{what_was_lacking(found)} {found.message}"))
    if found.changes:
        st.markdown(CHANGES_THAT_FIT)
        st.markdown(
            "\n".join(
                f"- `--set {change.override}`: {gib(change.peak_allocated_bytes)}"
                for change in found.changes
            )
        )


def _show_readings(result: ProbeResult) -> None:
    known = {"formula": result.formula, "dry run": result.dry_run, "measured": result.measured}
    readings = {name: estimate for name, estimate in known.items() if estimate}
    st.subheader("Estimated and measured")
    if result.measured:
        st.markdown(_verdict(result, result.measured))
    if result.formula_refusal:
        st.caption(f"No formula for this plan: {show.plain(result.formula_refusal)}")
    if readings:
        show.breakdown_table(list(readings.values()), list(readings))
    if result.measured:
        _facts(result)


def _verdict(result: ProbeResult, measured: MemoryEstimate) -> str:
    """Say in one or two sentences how the estimates did."""
    peak = measured.peak_allocated_bytes
    sentence = f"**Measured peak: {gib(peak)}** on {show.plain(result.device_name)}."
    guesses = [("dry run", result.dry_run), ("formula", result.formula)]
    for name, estimate in guesses:
        if estimate:
            guess = estimate.peak_allocated_bytes
            sentence += f" The {name} said {gib(guess)} ({percent(guess, peak)})."
    return sentence


def _facts(result: ProbeResult) -> None:
    with st.container(horizontal=True, gap="medium"):
        st.metric("Steps", result.num_steps, width="content")
        time_label = f"Time per step ({step_size(result.plan)})"
        st.metric(time_label, duration(result.step_seconds_median), width="content")
        if result.tokens_per_second is not None:
            st.metric("Tokens per second", count(round(result.tokens_per_second)), width="content")
        if result.first_loss is not None and result.last_loss is not None:
            both = f"{result.first_loss:.3f}, {result.last_loss:.3f}"
            st.metric("First and last loss", both, width="content")
    st.caption(
        f"Weights: {result.weights}. Data: {show.plain(result.data)}. "
        + ", ".join(f"{name} {version}" for name, version in result.software.items())
    )
