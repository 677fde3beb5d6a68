"""Decide: the questionnaire, and beside it what the answers so far point to."""

from __future__ import annotations

from typing import Any

import streamlit as st

from advisor.answers import Answers
from advisor.learn import topics_for
from advisor.recommend import recommend
from advisor.recommendation import Confidence, GateFound, Ranked, Reason, Recommendation
from advisor.rules import knowledge_base
from estimator.plan import parse_plan
from pages.ui import charts, show
from pages.ui.ladder import show_ladder
from pages.ui.learn_links import learn_links
from pages.ui.navigation import ESTIMATE, ensure_routed
from pages.ui.questionnaire import ask, example_picker
from pages.ui.scenario_file import scenario_file
from pages.ui.state import carried, carry_method

ensure_routed()

_GATE_WORDS = {"block": "Rules out", "prerequisite": "First", "note": "Good to know"}


@st.cache_data(ttl=3600, max_entries=256, show_spinner=False)
def advice(answers: Answers, plan: dict[str, Any] | None) -> Recommendation:
    """Return the advice for some answers, and for a plan as a document where there is one."""
    return recommend(answers, parse_plan(plan) if plan else None)


def page() -> None:
    """Show the questions beside the advice."""
    st.title("Decide")
    st.markdown("Answer what you know and leave the rest: the advice follows every answer.")
    example_picker()
    form, result = st.columns([1, 1], gap="large")
    with form:
        answers = ask()
        scenario_file(answers)
    with result:
        plan = carried().plan
        show_advice(advice(answers, plan.to_document() if plan else None))


def show_advice(found: Recommendation) -> None:
    """Show what to do, how sure that is, and everything that it rests on."""
    choice = found.recommendation
    st.subheader(found.sentence, anchor=False)
    if not found.answered:
        st.caption("Nothing is answered yet: this is where everybody starts.")
    st.markdown(f"**Do now:** {show.plain(choice.do_now)}")
    hosts = [offer.sentence for offer in found.hosted]
    for text in (found.method_reason, *found.addon_reasons, *hosts):
        if text:
            st.markdown(show.plain(text))
    learn_links(topics_for(choice.strategy, choice.method))
    offer_estimate(found)
    show_confidence(found.confidence)
    show_scores(found.ranking)
    why, gates, ladder, change = st.tabs(["Why", "Conditions", "Ladder", "What would change it"])
    with why:
        show_reasons(found.ranking)
    with gates:
        show_gates(found.gates)
        if found.memory and found.recommendation.method:
            lines = [f"- **Memory** {show.plain(one.text)}" for one in found.memory.verdicts]
            st.markdown("\n".join([*lines, "", show.plain(found.memory.read_for)]))
    with ladder:
        show_ladder(found.ladder)
    with change:
        lines = [f"- {show.plain(flip.text)}" for flip in found.what_would_change]
        st.markdown("\n".join(lines) or "No single other answer changes the strategy.")


def show_confidence(sure: Confidence) -> None:
    """Show how sure the advice is: three things, and no one percentage."""
    grades = {"experiment": "studies", "guidance": "vendors", "judgement": "our judgement"}
    shares = [f"{share:.0%} {grades[grade]}" for grade, share in sure.evidence.items() if share]
    with st.container(horizontal=True, gap="medium"):
        st.metric("Questions answered", f"{sure.answered:.0%}", width="content")
        st.metric(
            "Stability",
            f"{sure.stability:.0%}" if sure.answered else "no answers yet",
            help=f"In how many of {sure.num_draws} draws, in which the rules' points and the "
            "strategies' weights are redrawn, this strategy stays the best.",
            width="content",
        )
    st.caption(f"The points of this strategy rest on {show.plain(', '.join(shares))}.")


def offer_estimate(found: Recommendation) -> None:
    """Offer the way on, with the recommended method where there is one."""
    method = found.recommendation.method
    if method is None or method == "hosted":
        st.page_link(
            ESTIMATE,
            label="No training here is advised. See what it would need all the same",
            icon=":material/memory:",
        )
    elif st.button(
        f"Estimate this: {show.method_name(method)}",
        type="primary",
        icon=":material/arrow_forward:",
    ):
        carry_method(method)
        st.switch_page(ESTIMATE)


def show_scores(ranking: tuple[Ranked, ...]) -> None:
    """Show every strategy's score as a bar, those ruled out without one."""
    scores = {one.title: None if one.blocked else one.score for one in ranking}
    words = ", ".join(
        f"{title} {'ruled out' if score is None else f'{score:.1f}'}"
        for title, score in scores.items()
    )
    st.plotly_chart(
        charts.score_bars(scores),
        key="scores",
        config=charts.CONFIG,
        alt=f"Scores of the strategies: {words}.",
    )


def show_reasons(ranking: tuple[Ranked, ...]) -> None:
    """Show the sum behind each score, the best one's first and open."""
    for place, one in enumerate(ranking):
        with st.expander(f"{one.title}: {one.score:.1f}", expanded=place == 0):
            st.markdown(show.plain(one.summary))
            if one.blocked:
                st.markdown(f":red[Ruled out:] {show.plain(one.blocked)}")
            st.markdown("\n".join(_reason_line(reason) for reason in one.reasons))
            st.markdown(f"Their sum is **{one.score:+.7g}**.")


def _reason_line(reason: Reason) -> str:
    where = source(reason.source, reason.url)
    line = (
        f"- **{reason.points:+.7g}** {show.plain(reason.text)} "
        f":gray[{reason.rule}, {reason.evidence}:] {where}"
    )
    for one in reason.counter:
        line += f"\n    - :orange[But:] {show.plain(one.text)} {source(one.source, one.url)}"
    return line


def show_gates(gates: tuple[GateFound, ...]) -> None:
    """Show what no score can outweigh."""
    if not gates:
        st.markdown("Nothing is ruled out, and nothing has to come first.")
    titles = {strategy.id: strategy.title for strategy in knowledge_base().strategies}
    for gate in gates:
        names = ", ".join(titles[name] for name in gate.strategies) or "all"
        step = f" {show.plain(gate.step)}" if gate.step else ""
        st.markdown(
            f"- **{_GATE_WORDS[gate.kind]}** ({show.plain(names)}): {show.plain(gate.text)}"
            f"{step} {source(gate.source, gate.url)}"
        )


def source(name: str, url: str | None) -> str:
    """Return a source as a link where it has an address."""
    return f"[{show.plain(name)}]({url})" if url else show.plain(name)


page()
