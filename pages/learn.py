"""Learn: what the words mean, when each thing pays, and what is often got wrong."""

from __future__ import annotations

import streamlit as st

from advisor.learn import Topic, find_topic, topics
from estimator.problems import InputError
from pages.ui import show
from pages.ui.navigation import ensure_routed

ensure_routed()


def page() -> None:
    """Show the topic that the address names first, and all of them below."""
    st.title("Learn")
    st.markdown("Short explanations of the words used here, with their sources.")
    wanted = st.query_params.get("topic")
    chosen = None
    if wanted:
        try:
            chosen = find_topic(wanted)
        except InputError as error:
            show.problems(error, "This is not explained here:")
    names = {topic.id: topic.title for topic in topics()}
    picked = st.selectbox(
        "Topic",
        list(names),
        index=list(names).index(chosen.id) if chosen else None,
        format_func=names.__getitem__,
        placeholder="Choose one, or read on",
    )
    if picked:
        st.query_params["topic"] = picked
        show_topic(find_topic(picked))
        return
    for topic in topics():
        show_topic(topic)


def show_topic(topic: Topic) -> None:
    """Show one explanation; its heading is its anchor."""
    st.header(topic.title, anchor=topic.id)
    st.markdown(show.plain(topic.what))
    st.markdown(f"**When it pays.** {show.plain(topic.pays)}")
    st.markdown(f"**A common mistake.** {show.plain(topic.mistake)}")
    sources = " · ".join(f"[{show.plain(one.name)}]({one.url})" for one in topic.sources)
    st.caption(f"Sources: {sources}")
    if topic.see:
        others = ", ".join(
            f"[{show.plain(find_topic(one).title)}](learn?topic={one})" for one in topic.see
        )
        st.caption(f"See also: {others}")


page()
