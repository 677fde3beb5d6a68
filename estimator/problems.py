"""What is wrong with an input, in words its author can act on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input.

    Attributes:
        where: The file, key or line, for example ``plan.yaml: seq_len``.
        what: What is wrong there, with the offending value.
        allowed: What would be accepted, or "" where that cannot be listed.
        fix: What to do about it, as an imperative.
    """

    where: str
    what: str
    allowed: str = ""
    fix: str = ""

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}"]
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        return "; ".join(" ".join(part.split()) for part in parts)


class InputError(ValueError):
    """An input that cannot be used, with every problem found in it.

    The terminal prints one line per problem and exits with status 2; a page shows them as a list.
    """

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def problems_of(checks: Iterable[Callable[[], object]]) -> list[Problem]:
    """Return what all of several checks find wrong, each problem once."""
    found: dict[Problem, None] = {}
    for check in checks:
        try:
            check()
        except InputError as error:
            found |= dict.fromkeys(error.problems)
    return list(found)
