"""Small links to the page that explains the words."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from advisor.learn import find_topic
from pages.ui.navigation import LEARN


def learn_links(topics: Iterable[str]) -> None:
    """Show a link for each topic, by its id, in one line."""
    with st.container(horizontal=True, gap="small"):
        for name in dict.fromkeys(topics):
            found = find_topic(name)
            st.page_link(
                LEARN,
                label=f"What is {_lower(found.title)}?",
                icon=":material/school:",
                query_params={"topic": found.id},
                width="content",
            )


def _lower(title: str) -> str:
    return title if title[:2].isupper() or not title[1:].islower() else title[0].lower() + title[1:]
