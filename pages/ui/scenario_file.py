"""A scenario file on the page: opened, and taken along."""

from __future__ import annotations

import streamlit as st

from advisor.answers import Answers
from advisor.scenario import Scenario, parse_scenario
from estimator.documents import parse_document, to_yaml
from estimator.problems import InputError, Problem
from pages.ui import show
from pages.ui.questionnaire import fill_in
from pages.ui.state import carried

_KEY, _WRONG = "scenario_file", "scenario_problems"


def scenario_file(answers: Answers) -> None:
    """Offer to open a scenario file, and to download what is decided here as one.

    Args:
        answers: Those given so far, which the download holds with the carried plan.
    """
    with st.expander("Scenario file: open one, or take this decision along"):
        st.file_uploader(
            "A scenario file fills in its answers, and carries its plan to the other pages",
            type=["yaml", "yml", "json"],
            max_upload_size=1,
            key=_KEY,
            on_change=_open,
        )
        wrong = st.session_state.get(_WRONG)
        if isinstance(wrong, InputError):
            show.problems(wrong, "This is no scenario that can be opened:")
        st.download_button(
            "Download the scenario",
            to_yaml(as_scenario(answers).to_document()),
            "scenario.yaml",
            "application/yaml",
            icon=":material/download:",
        )
        st.caption("From a terminal the same file gives the same: `tuneplan advise scenario.yaml`.")


def as_scenario(answers: Answers) -> Scenario:
    """Return the scenario that this session holds: the one that was opened, as changed since."""
    held = carried()
    base = held.scenario or parse_scenario({})
    return base.model_copy(update={"answers": answers, "plan": held.plan})


def _open() -> None:
    """Take over the file that was uploaded, all of it or nothing."""
    st.session_state[_WRONG] = None
    uploaded = st.session_state.get(_KEY)
    if uploaded is None:
        return
    try:
        take_over(_read(uploaded.getvalue(), uploaded.name))
    except InputError as error:
        st.session_state[_WRONG] = error


def _read(content: bytes, name: str) -> Scenario:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text (byte {error.start})"
        raise InputError(Problem(name, what, fix="save it as UTF-8")) from error
    return parse_scenario(parse_document(text, name), name=name)


def take_over(scenario: Scenario) -> None:
    """Let this session go on from a scenario: its answers, its plan, and all else it holds."""
    carried().scenario, carried().plan = scenario, scenario.plan
    fill_in(scenario.answers)
