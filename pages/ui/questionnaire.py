"""The questionnaire as widgets, a theme at a time."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import streamlit as st

from advisor.answers import Answers
from advisor.questions import Question, questions
from advisor.scenario import bundled_cases, load_scenario
from pages.ui.state import carried

_SUPPORT_BOT = Path(__file__).parents[2] / "examples" / "support-bot.yaml"
_FIRST_EXAMPLE = "A support bot in the voice of the brand"


def example_picker() -> None:
    """Offer bundled examples whose answers can be started from, and a way to start over."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        title = st.selectbox("Start from an example", _titles(), key="example", width=380)
        st.button("Load", on_click=_fill, args=(title,))
        st.button("Clear all answers", on_click=fill_in, args=({},))


def _titles() -> list[str]:
    return [_FIRST_EXAMPLE, *(case.title for case in bundled_cases())]


def _fill(title: str) -> None:
    cases = {case.title: case.answers for case in bundled_cases()}
    if title in cases:
        fill_in(cases[title])
        return
    scenario = load_scenario(_SUPPORT_BOT)
    carried().scenario, carried().plan = scenario, scenario.plan
    fill_in(scenario.answers)


def fill_in(answers: Answers) -> None:
    """Give every question its answer, and leave the others open."""
    for question in questions():
        nothing = [] if question.many else None
        st.session_state[_key(question)] = answers.get(question.id, nothing)


def ask() -> Answers:
    """Show every question that matters and return the answers so far.

    What is not answered is left out, and so is what another answer makes irrelevant.
    """
    given = {one.id: answer for one in questions() if (answer := st.session_state.get(_key(one)))}
    sections = [
        (title, list(group)) for title, group in groupby(questions(), lambda one: one.section)
    ]
    answers: Answers = {}
    for tab, (_, group) in zip(st.tabs([title for title, _ in sections]), sections, strict=True):
        with tab:
            for question in group:
                if question.made_irrelevant_by(given):
                    continue
                answer = _ask(question)
                if answer:
                    answers[question.id] = answer
    return answers


def _ask(question: Question) -> str | list[str] | None:
    labels = dict(question.choices)
    return st.pills(
        question.text,
        list(labels),
        selection_mode="multi" if question.many else "single",
        format_func=labels.__getitem__,
        help=_help(question),
        key=_key(question),
        persist_state="session",
    )


def _help(question: Question) -> str:
    labels = dict(question.choices)
    lines = [f"{question.why} {question.help}"]
    lines += [f"- *{labels[value]}*: {text}" for value, text in question.choice_help.items()]
    return "\n".join(lines)


def _key(question: Question) -> str:
    return f"answer_{question.id}"
