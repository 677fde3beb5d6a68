"""What a fine-tune brought, on the page."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import streamlit as st

from pages.ui import show
from reports.finetune_facts import facts, measures, notes
from reports.words import what_was_lacking
from trainer.evaluation_results import Comparison
from trainer.finetune_results import FineTuneResult
from trainer.runs import Run

_COLORS: dict[str, Literal["green", "orange", "red", "gray"]] = {
    "learned": "green",
    "overfitted": "orange",
    "forgot": "orange",
    "worse": "red",
    "no_change": "gray",
}


def show_finetune(run: Run, result: FineTuneResult) -> None:
    """Show what a fine-tune did, whether it helped, and where its model is."""
    if result.out_of_memory:
        st.error(show.plain(what_was_lacking(result.out_of_memory)))
        for change in result.out_of_memory.changes:
            st.markdown(f"- `--set {change.override}`")
    if result.comparison:
        _show_comparison(result.comparison)
    st.subheader("What was done")
    lines = [f"- **{name}**: {show.plain(value)}" for name, value in facts(result).items()]
    st.markdown("\n".join(lines))
    for note in notes(result):
        st.caption(show.plain(note))
    if result.saved:
        st.markdown(f"The {result.saved} is saved here, with its card:")
        st.code(str(run.folder / "model"), language=None, wrap_lines=True)
    if result.pushed_to:
        st.markdown(f"Published: {show.plain(result.pushed_to)}")


def _show_comparison(comparison: Comparison) -> None:
    st.subheader("Did it help?")
    verdict = comparison.verdict or "not known"
    st.badge(verdict.replace("_", " "), color=_COLORS.get(verdict, "gray"))
    st.markdown(show.plain(comparison.sentence))
    for warning in comparison.warnings:
        st.caption(show.plain(warning))
    table = pd.DataFrame.from_dict(
        measures(comparison), orient="index", columns=["before", "after"]
    )
    st.table(table, border="horizontal", alt="What was measured before and after training")
    _show_samples(comparison)


def _show_samples(comparison: Comparison) -> None:
    pairs = zip(comparison.before.samples, comparison.after.samples, strict=False)
    samples = pd.DataFrame(
        [
            {
                "asked": after.prompt,
                "wanted": after.reference,
                "before": before.output,
                "after": after.output,
            }
            for before, after in pairs
        ]
    )
    if not samples.empty:
        with st.expander(f"{len(samples)} held-out examples, before and after"):
            st.dataframe(samples, hide_index=True, alt="Answers before and after training")
