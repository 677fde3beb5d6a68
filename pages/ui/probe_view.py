"""What a probe found, on the page."""

from __future__ import annotations

import streamlit as st

from estimator.estimate import MemoryEstimate
from estimator.plan import FineTunePlan
from pages.ui import show
from pages.ui.state import carried
from reports.differences import differences, length_note
from reports.probe_facts import changed_plan, facts, holders
from reports.units import count, duration, gib, percent
from reports.words import makes_it_fit, step_size, what_was_lacking
from trainer.results import Change, OutOfMemory, ProbeRequest, ProbeResult
from trainer.runs import Run


def show_probe(run: Run, result: ProbeResult) -> None:
    """Show a probe's measurement beside its estimates, or what would make it fit."""
    if result.out_of_memory:
        _show_out_of_memory(run, result, result.out_of_memory)
    _show_readings(result)


def _show_out_of_memory(run: Run, result: ProbeResult, found: OutOfMemory) -> None:
    st.error(show.plain(what_was_lacking(found)))
    if others := holders(found.holders):
        st.warning(show.plain(others))
    if not found.changes:
        st.markdown("By the estimate, no change is enough.")
        return
    st.markdown(makes_it_fit(len(found.changes)))
    for index, change in enumerate(found.changes):
        with st.container(horizontal=True, vertical_alignment="center"):
            if st.button("Use this", key=f"change_{index}", icon=":material/edit:"):
                _carry(run, result, change)
            price = f" Its price: {show.plain(change.price)}." if change.price else ""
            peak = gib(change.peak_allocated_bytes)
            st.markdown(
                f"`--set {change.override}`: peak {peak}. {show.plain(change.text)}.{price}"
            )


def _carry(run: Run, result: ProbeResult, change: Change) -> None:
    """Open the form of a new probe with the changed plan, on the data of the one before."""
    request = run.request()
    plan = changed_plan(request.plan, result.plan, change)
    carried().plan = _with_data(plan, request) if isinstance(request, ProbeRequest) else plan
    st.query_params.clear()
    st.rerun()


def _with_data(plan: FineTunePlan, request: ProbeRequest) -> FineTunePlan:
    if request.data_path is None:
        return plan
    return plan.changed(data=plan.to_document()["data"] | {"path": request.data_path})


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
    _show_why(result)
    if result.measured:
        _show_metrics(result)
    lines = [f"- **{name}**: {show.plain(value)}" for name, value in facts(result)]
    st.markdown("\n".join(lines))
    versions = ", ".join(f"{name} {version}" for name, version in result.software.items())
    st.caption(f"Data: {show.plain(result.data)}. {versions}")


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


def _show_why(result: ProbeResult) -> None:
    """Say why estimates and measurement differ, and how long the data's examples are."""
    if note := length_note(result):
        st.markdown(show.plain(note))
    explained = [one for one in differences(result) if len(one.reasons) > 1]
    if explained:
        with st.expander("Why they differ"):
            for one in explained:
                st.markdown("\n".join(f"- {show.plain(reason)}" for reason in one.reasons))


def _show_metrics(result: ProbeResult) -> None:
    with st.container(horizontal=True, gap="medium"):
        st.metric("Steps", result.num_steps, width="content")
        time_label = f"Time per step ({step_size(result.plan)})"
        st.metric(time_label, duration(result.step_seconds_median), width="content")
        if result.tokens_per_second is not None:
            st.metric("Tokens per second", count(round(result.tokens_per_second)), width="content")
        if result.first_loss is not None and result.last_loss is not None:
            both = f"{result.first_loss:.3f}, {result.last_loss:.3f}"
            st.metric("First and last loss", both, width="content")
