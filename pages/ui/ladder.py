"""The ladder: what is done, what to do now, and what may come later."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from advisor.ladder import Rung
from pages.ui import show

_MARKS = {"done": ":green[Done]", "now": "**Now**", "later": ":gray[Later]"}


def show_ladder(rungs: Sequence[Rung]) -> None:
    """Show each step, and for those to come the evidence that opens them."""
    st.markdown("\n".join(map(_line, rungs)))


def _line(rung: Rung) -> str:
    line = f"- {_MARKS[rung.when]} {show.plain(rung.title)}"
    if rung.when == "now":
        return f"{line}: {show.plain(rung.what)}"
    if rung.when == "later":
        where = f" ([{show.plain(rung.source)}]({rung.url}))" if rung.url else ""
        missing = "".join(f" {show.plain(step)}" for step in rung.missing)
        return f"{line}, when: {show.plain(rung.evidence)}{missing}{where}"
    return line
