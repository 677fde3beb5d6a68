"""Time and the peaks beside the training step, as a page shows them."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from estimator.estimate import MemoryEstimate, Timeline
from estimator.other_peaks import read_other_peaks
from estimator.plan import FineTunePlan
from estimator.throughput import Throughput, read_throughput
from pages.ui import charts, show
from reports.outlook import (
    Rows,
    arithmetic,
    gpu_rows,
    other_rows,
    peak_notes,
    tera,
    time_sentence,
)


def time_line(estimate: MemoryEstimate) -> None:
    """Show in one sentence how long a step and the run take."""
    st.markdown(show.plain(time_sentence(read_throughput(estimate.plan))))


def time_details(estimate: MemoryEstimate) -> None:
    """Show what the time is made of, by which formula, and from which sources."""
    found: Throughput = read_throughput(estimate.plan)
    st.markdown(show.plain(time_sentence(found)))
    if found.total_flops_per_step:
        _arithmetic_table(found)
    st.markdown(f"`{found.formula}`")
    st.markdown(_bullets([*found.sources, *found.assumptions]))


def peaks(estimate: MemoryEstimate) -> None:
    """Show what loading, evaluation, generation and saving need, on the GPU and beside it."""
    found = read_other_peaks(estimate)
    gpu, other = st.columns(2, gap="medium")
    with gpu:
        _table("peak on the GPU", gpu_rows(found), "Peak of each use of the GPU")
    with other:
        _table("beside the GPU", other_rows(found), "Main memory and disk")
    st.markdown(_bullets(list(peak_notes(found))))


def timeline(
    plan: FineTunePlan, estimate: MemoryEstimate | None, last_dry_run: MemoryEstimate | None
) -> None:
    """Show the allocated memory over the step, as the last dry run recorded it.

    Args:
        plan: What the form asks for now.
        estimate: Its best reading.
        last_dry_run: Is shown where the reading has recorded nothing, and marked as out of date.
    """
    if estimate and estimate.timeline:
        _timeline_chart(estimate, estimate.timeline)
    elif last_dry_run and last_dry_run.timeline:
        changed = show.plain(", ".join(_changed_keys(last_dry_run.plan, plan)))
        st.warning(f"Out of date: since this dry run you have changed {changed}. Make a new one.")
        _timeline_chart(last_dry_run, last_dry_run.timeline)
    else:
        st.caption("A dry run records the step: make one to see the memory rise and fall.")


def _changed_keys(before: FineTunePlan, now: FineTunePlan) -> list[str]:
    earlier, later = before.to_document(), now.to_document()
    return [key for key in later if later[key] != earlier.get(key)]


def _timeline_chart(estimate: MemoryEstimate, timeline: Timeline) -> None:
    st.plotly_chart(
        charts.step_timeline(timeline, _theme_colors()),
        key=f"timeline_{estimate.plan.method}",
        config=charts.CONFIG,
        alt=f"Allocated memory over one step by component, {show.reading_name(estimate)}.",
    )
    st.caption("From left to right: tensors made and freed, in their order. It is not time.")


def _theme_colors() -> list[str]:
    """Return the theme's colours of the components, as the browser shows them."""
    return st.get_option(f"theme.{st.context.theme.type or 'light'}.chartCategoricalColors")


def _arithmetic_table(found: Throughput) -> None:
    parts = arithmetic(found)
    passes = ("forward", "recompute", "backward")
    rows = [[tera(part.get(when, 0)) for when in passes] for part in parts.values()]
    table = pd.DataFrame(rows, list(parts), list(passes))
    st.table(table, border="horizontal", alt="Matrix products of one step by part and pass")
    st.caption(f"Together {tera(found.total_flops_per_step)} a step, in matrix products.")


def _table(heading: str, rows: Rows, alt: str) -> None:
    table = pd.DataFrame([value for _, value in rows], [name for name, _ in rows], [heading])
    st.table(table, border="horizontal", alt=alt)


def _bullets(texts: list[str]) -> str:
    return "\n".join(f"- {show.plain(text)}" for text in texts)
