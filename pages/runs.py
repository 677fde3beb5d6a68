"""Runs: every probe on this machine, and the way back into each."""

from __future__ import annotations

import streamlit as st

from pages.ui.navigation import PROVE, ensure_routed
from pages.ui.run_table import show_runs
from trainer.runs import list_runs, runs_folder

ensure_routed()

_PAGE_SIZE = 20


def page() -> None:
    """List the runs, newest first, a page at a time."""
    st.title("Runs")
    runs = list_runs()
    if not runs:
        st.info("No runs yet. A probe measures a few real training steps on this machine.")
        st.page_link(PROVE, label="Start a probe", icon=":material/science:")
        return
    num_pages = -(-len(runs) // _PAGE_SIZE)
    number = 1
    if num_pages > 1:
        number = st.number_input(f"Page, of {num_pages}", 1, num_pages, key="runs_page", width=160)
    show_runs(runs[(number - 1) * _PAGE_SIZE : number * _PAGE_SIZE])
    st.caption(f"{len(runs)} runs, kept in {runs_folder()}")


page()
