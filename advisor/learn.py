"""Short, cited explanations of the words that the advice and the estimates use; as data."""

from __future__ import annotations

import difflib
from functools import cache

from advisor.bundled import read_bundled
from estimator.problems import InputError, Problem
from estimator.records import Record


class Citation(Record):
    """Where something can be read up."""

    name: str
    url: str


class Topic(Record):
    """One explanation.

    Attributes:
        id: What to ask for it by, and its anchor in the browser.
        title: Its heading.
        what: What it is.
        pays: When it pays, and when it does not.
        mistake: A common mistake, and what is right.
        sources: Where it comes from.
        see: Other topics close to it.
        also: Other names that people use for it.
    """

    id: str
    title: str
    what: str
    pays: str
    mistake: str
    sources: tuple[Citation, ...]
    see: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


@cache
def topics() -> tuple[Topic, ...]:
    """Return every topic, in the order to read them."""
    return tuple(Topic(**row) for row in read_bundled("learn")["topics"])


def find_topic(name: str) -> Topic:
    """Return the topic called ``name``: by its id, its title or another name for it.

    Raises:
        InputError: There is none.
    """
    names = {
        _plain(one): topic for topic in topics() for one in (topic.id, topic.title, *topic.also)
    }
    if _plain(name) in names:
        return names[_plain(name)]
    close = difflib.get_close_matches(_plain(name), names, 1)
    fix = f"did you mean {names[close[0]].id}?" if close else "choose one of these"
    what = f"{name!r} is not explained"
    raise InputError(Problem("topic", what, ", ".join(topic.id for topic in topics()), fix))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


_STRATEGY_TOPICS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt-engineering", "few-shot", "structured-outputs"),
    "long_context": ("long-context", "prompt-caching"),
    "rag": ("rag",),
    "finetune": ("fine-tuning", "data-quality"),
    "rag+finetune": ("rag", "fine-tuning"),
    "continued_pretraining": ("continued-pre-training",),
    "new_model": ("new-model",),
}
_METHOD_TOPICS = {
    "full": "full-fine-tuning",
    "lora": "lora",
    "qlora": "qlora",
    "hosted": "hosted-fine-tuning",
}


def method_topic(method: str) -> str:
    """Return the topic that explains a way of training, by id."""
    return _METHOD_TOPICS.get(method, "peft")


def topics_for(strategy: str, method: str | None = None) -> tuple[str, ...]:
    """Return the topics that explain a recommendation, by id."""
    own = (_METHOD_TOPICS[method],) if method else ()
    return (*_STRATEGY_TOPICS[strategy], *own, "evaluation")
