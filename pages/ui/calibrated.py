"""What this machine's probes make of an estimate, as a page shows it beside the plain values."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from estimator.estimate import MemoryEstimate
from estimator.throughput import read_throughput
from pages.ui import show
from reports import calibrated as words
from trainer.lessons import calibrate_here


def beside(estimate: MemoryEstimate) -> None:
    """Show calibrated values beside an estimate's own, nothing where there are no lessons."""
    found = calibrate_here(estimate, read_throughput(estimate.plan))
    if found is None:
        return
    st.markdown(f"**{show.plain(words.headline(found))}**")
    for text in (words.verdict(found), words.time(found)):
        if text:
            st.markdown(show.plain(text))
    for note in found.calibration.notes:
        st.warning(show.plain(note))
    with st.expander("What the probes taught"):
        rows = [[one.plain, one.calibrated, one.spread] for one in words.sizes(found)]
        names = [one.name for one in words.sizes(found)]
        columns = ["plain", "calibrated", "by each lesson"]
        st.table(
            pd.DataFrame(rows, names, columns),
            border="horizontal",
            alt="Sizes as estimated and as calibrated",
        )
        taught = words.figures(found.calibration)
        st.table(
            pd.DataFrame(
                [row[1:] for row in taught],
                [row[0] for row in taught],
                ["median", "low to high", "lessons"],
            ),
            border="horizontal",
            alt="What the lessons measured",
        )
