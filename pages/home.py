"""Home: what this is, the three ways in, what ran before, and what this machine can do."""

from __future__ import annotations

import streamlit as st

from pages.ui.machine import show_machine
from pages.ui.navigation import DECIDE, ESTIMATE, PROVE, ensure_routed
from pages.ui.run_table import show_runs
from trainer.runs import list_runs

ensure_routed()

_DOORS = (
    (
        "I have a problem",
        "Prompting, retrieval, fine-tuning, or several of them? Answer what you know; the advice "
        "says why, and what would change it.",
        "Decide",
        DECIDE,
    ),
    (
        "I have a model and a GPU",
        "How much memory full fine-tuning, LoRA and QLoRA take, part by part, and which GPU "
        "they fit on.",
        "Estimate",
        ESTIMATE,
    ),
    (
        "I have data and want proof",
        "A few real training steps on this machine, measured and laid beside the estimate.",
        "Prove",
        PROVE,
    ),
)


def page() -> None:
    """Show the three doors, the last runs and this machine."""
    st.title("tuneplan")
    st.markdown(
        "Choose how to adapt a language model, know what it needs, "
        "and prove it before money is spent."
    )
    for column, (title, text, name, target) in zip(st.columns(3), _DOORS, strict=True):
        box = column.container(border=True, height="stretch", vertical_alignment="distribute")
        with box:
            words = st.container()
            words.subheader(title, anchor=False)
            words.markdown(text)
            if st.button(name, type="primary", icon=":material/arrow_forward:", width="stretch"):
                st.switch_page(target)
    st.subheader("Recent runs", anchor=False)
    runs = list_runs()
    if runs:
        show_runs(runs[:3])
    else:
        st.caption("None yet. What you prove on this machine is listed here.")
    show_machine()


page()
