"""tuneplan learn: what the words mean, when each thing pays, and what is often got wrong."""

from __future__ import annotations

from typing import Annotated

import typer

from commands.shared import AsJson, show


def learn(
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="Such as lora; without it, a list.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain a word, with its sources; without one, list what is explained."""
    from advisor.learn import find_topic, topics

    found = find_topic(topic) if topic else None

    def render():
        from reports import terminal_learn

        return terminal_learn.topic(found) if found else terminal_learn.listing(topics())

    everything = {"topics": [one.to_document() for one in topics()]}
    show(found.to_document() if found else everything, render, as_json)
