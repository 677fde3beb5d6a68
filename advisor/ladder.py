"""The ladder: what is done, what to do now, what may come later, and on what evidence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal

from pydantic import Field

from advisor.answers import Answers
from advisor.bundled import read_bundled
from advisor.rules import Source, with_sources
from advisor.scoring import Applied
from estimator.records import Record

When = Literal["done", "now", "later"]


class Rung(Record):
    """One step of the ladder.

    ``evidence`` is what moves a person up to it; ``missing`` is the work that its gates still ask
    for.
    """

    rung: str
    title: str
    when: When
    what: str
    evidence: str
    missing: tuple[str, ...] = ()
    source: str
    url: str | None


class _RungData(Record):
    rung: str
    title: str
    what: str
    evidence: str
    source: Source
    done_when: dict[str, tuple[str, ...]] = Field({})

    def is_done(self, answers: Answers) -> bool:
        return any(answers.get(question) in values for question, values in self.done_when.items())


class _Path(Record):
    way: tuple[str, ...]
    beyond: tuple[str, ...]


class _Ladder(Record):
    rungs: tuple[_RungData, ...]
    paths: dict[str, _Path]


@cache
def _ladder() -> _Ladder:
    return _Ladder.model_validate(with_sources(read_bundled("ladder")))


def climb(answers: Answers, found: Applied, top: str, target: str) -> tuple[Rung, ...]:
    """Return the steps from where the answers stand, past the advice, to what may come after.

    Args:
        answers: Those that count.
        found: What applies under them.
        top: The strategy recommended now.
        target: The one to work towards.
    """
    return tuple(_climb(answers, found, top, target))


def _climb(answers: Answers, found: Applied, top: str, target: str) -> Iterator[Rung]:
    rungs = {one.rung: one for one in _ladder().rungs}
    paths = _ladder().paths
    until_now = dict.fromkeys(["evals", "prompt", *paths[top].way, top])
    for name in until_now:
        is_done = name != top and rungs[name].is_done(answers)
        yield _rung(rungs[name], found, "done" if is_done else "now")
    later = [*paths[target].way, target, *paths[target].beyond]
    for name in dict.fromkeys(later):
        if name not in until_now and all(gate.step for gate in found.blocks(name)):
            yield _rung(rungs[name], found, "later")


def _rung(rung: _RungData, found: Applied, when: When) -> Rung:
    steps = (gate.step for gate in found.gates if gate.step and rung.rung in gate.strategies)
    return Rung(
        rung=rung.rung,
        title=rung.title,
        when=when,
        what=rung.what,
        evidence=rung.evidence,
        missing=tuple(dict.fromkeys(steps)),
        source=rung.source.name,
        url=rung.source.url,
    )
