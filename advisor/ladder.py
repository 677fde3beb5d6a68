"""The ladder: what is done, what to do now, what may come later, and on what evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Literal

from pydantic import Field

from advisor.answers import Answers
from advisor.bundled import read_bundled
from advisor.rules import Gate, Source, knowledge_base, with_sources
from advisor.scoring import Applied
from estimator.records import Record

When = Literal["done", "now", "later"]
PREPARATION = "preparation"
"""The rung of the work that the target waits for; its ``what`` is that work."""


class Rung(Record):
    """One step of the ladder.

    ``evidence`` is what moves a person up to it; ``missing`` is the work that its gates still ask
    for; ``steps`` are what to do first, where it is to be done now.
    """

    rung: str
    title: str
    when: When
    what: str
    evidence: str
    missing: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    source: str
    url: str | None


_Lines = dict[str, tuple[str, ...]]


class _Wording(Record):
    when: _Lines
    what: str


class _RungData(Record):
    """A step as it is written down.

    ``done_when`` says that what lies beyond may begin; ``finished_when`` that nothing is left of
    its first step, even where it is what is recommended. ``gates`` ask for it in words.
    """

    rung: str
    title: str
    what: str
    instead: tuple[_Wording, ...] = ()
    evidence: str
    source: Source
    done_when: _Lines = Field({})
    finished_when: _Lines = Field({})
    gates: tuple[str, ...] = ()

    def what_under(self, answers: Answers) -> str:
        return next((one.what for one in self.instead if _any(one.when, answers)), self.what)


def _any(lines: _Lines, answers: Answers) -> bool:
    return any(answers.get(question) in values for question, values in lines.items())


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
    is_finished = top != target and _any(rungs[top].finished_when, answers)
    until_now = dict.fromkeys(["evals", "prompt", *paths[top].way, top])
    for when in ("done", "now"):
        for name in until_now:
            is_done = is_finished if name == top else _any(rungs[name].done_when, answers)
            if is_done == (when == "done"):
                steps = () if is_done else _steps(rungs[name], found, top)
                yield _rung(rungs[name], answers, found, when, steps)
    if is_finished:
        yield _preparation(found, target)
    later = [*paths[target].way, target, *paths[target].beyond]
    for name in dict.fromkeys(later):
        if name not in until_now and all(gate.step for gate in found.blocks(name)):
            yield _rung(rungs[name], answers, found, "later")


def _steps(rung: _RungData, found: Applied, top: str) -> tuple[str, ...]:
    """What to do first on a rung: what its gates ask for, then, on the advice itself, its own."""
    if rung.rung == top:
        return (*_asked(_gates_of(found, top)), knowledge_base().strategy(top).first_step)
    if not rung.gates:  # the advice's own first step begins with it
        return ()
    speaking = [gate for gate in found.gates if gate.gate in rung.gates]
    return _asked(speaking or [knowledge_base().gate(rung.gates[0])])


def _preparation(found: Applied, target: str) -> Rung:
    """What is to be done now, where the advice is done already and its target still waits."""
    gates = _gates_of(found, target)
    title = knowledge_base().strategy(target).title
    return Rung(
        rung=PREPARATION,
        title=f"What {title[0].lower()}{title[1:]} waits for",
        when="now",
        what=" ".join(_asked(gates)),
        evidence=" ".join(gate.text for gate in gates),
        source=gates[0].source.name,
        url=gates[0].source.url,
    )


def _gates_of(found: Applied, strategy: str) -> list[Gate]:
    """The gates that ask for work before this strategy, those about every strategy left out."""
    return [gate for gate in found.gates if gate.step and strategy in gate.strategies]


def _asked(gates: Iterable[Gate]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(gate.step for gate in gates if gate.step))


def _rung(
    rung: _RungData, answers: Answers, found: Applied, when: When, steps: tuple[str, ...] = ()
) -> Rung:
    return Rung(
        rung=rung.rung,
        title=rung.title,
        when=when,
        what=rung.what_under(answers),
        evidence=rung.evidence,
        missing=_asked(_gates_of(found, rung.rung)),
        steps=steps,
        source=rung.source.name,
        url=rung.source.url,
    )
