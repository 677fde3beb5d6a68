"""Which pages there are, and the one way into each of them."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path

import streamlit as st

_PAGES = Path(__file__).parents[1]
_ICON = _PAGES.parent / "favicon.svg"

HOME = _PAGES / "home.py"
DECIDE = _PAGES / "decide.py"
ESTIMATE = _PAGES / "estimate.py"
PROVE = _PAGES / "prove.py"
RUNS = _PAGES / "runs.py"
LEARN = _PAGES / "learn.py"

_routed: ContextVar[bool] = ContextVar("routed", default=False)


def run() -> None:
    """Show the page that the address asks for."""
    page = _build()
    token = _routed.set(True)
    try:
        page.run()
    finally:
        _routed.reset(token)


def ensure_routed() -> None:
    """Enter through the navigation; the first line of every page.

    Streamlit finds the folder ``pages/`` by itself and runs the file in it that a deep link names,
    past ``app.py``, until a session has declared its navigation. So a page that was not reached
    through :func:`run` declares it and starts over.
    """
    if not _routed.get():
        _build()
        st.rerun()


def _build():
    # The icon is a file: Streamlit would fetch an icon by name from a font host.
    st.set_page_config(page_title="tuneplan", page_icon=str(_ICON), layout="wide")
    return st.navigation(
        [
            st.Page(HOME, title="Home", icon=":material/home:", default=True),
            st.Page(DECIDE, title="Decide", icon=":material/alt_route:"),
            st.Page(ESTIMATE, title="Estimate", icon=":material/memory:"),
            st.Page(PROVE, title="Prove", icon=":material/science:"),
            st.Page(RUNS, title="Runs", icon=":material/list:"),
            st.Page(LEARN, title="Learn", icon=":material/school:"),
        ],
        position="top",
    )
