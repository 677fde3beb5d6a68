"""Plain counts over texts: facts, copied spans, shapes, words that are new, answers that differ."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import combinations, pairwise

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_NAME = re.compile(r"""(?<=[^\s.!?:"] )[A-Z][\w-]+""")
_LIST_LINE = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+\S")

MOST_WORDS = 400
"""Of a longer text only so many words are searched for copies: the search takes their square."""

NEARLY_EQUAL = 0.9
"""Inputs that share so much of their words (Jaccard) are taken as the same question."""


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def normalised(text: str) -> str:
    """Return a text as it is compared: its words alone."""
    return " ".join(words(text))


def mean_words(texts: Sequence[str]) -> float:
    """Return the average number of words, 0 where there is no text."""
    return sum(len(words(text)) for text in texts) / len(texts) if texts else 0.0


def facts(text: str) -> set[str]:
    """Return the numbers, dates and names that a text states.

    A name is a capitalised word within a sentence: in languages that write every noun so, there
    are more of them than there are names.
    """
    return {*_NUMBER.findall(text), *_NAME.findall(text)}


def copied_share(prompt: str, completion: str) -> float:
    """Return how much of an answer is its longest passage that also stands in the input, 0 to 1."""
    source, answer = words(prompt)[:MOST_WORDS], words(completion)[:MOST_WORDS]
    if not answer:
        return 0.0
    match = SequenceMatcher(None, source, answer, autojunk=False).find_longest_match()
    return match.size / len(answer)


def held_share(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the share of the answers' words that their own inputs hold, 0 to 1.

    Args:
        pairs: Inputs and answers.
    """
    answers = [(set(words(prompt)), words(completion)) for prompt, completion in pairs]
    held = sum(word in prompt for prompt, answer in answers for word in answer)
    return held / max(1, sum(len(answer) for _, answer in answers))


def shape(text: str) -> str:
    """Return what a text is: JSON, list, or text."""
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            json.loads(stripped)
        except ValueError:
            return "text"
        return "JSON"
    lines = [line for line in stripped.splitlines() if line.strip()]
    return "list" if len(lines) > 1 and all(map(_LIST_LINE.match, lines)) else "text"


def novelty(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the share of the answers' words that stand in no other example and not in their input.

    Args:
        pairs: Inputs and answers.
    """
    own = [(set(words(prompt)), words(completion)) for prompt, completion in pairs]
    holders = Counter(word for prompt, answer in own for word in prompt | {*answer})
    new = sum(
        holders[word] == 1 and word not in prompt for prompt, answer in own for word in answer
    )
    return new / max(1, sum(len(answer) for _, answer in own))


def conflicts(
    everything: Sequence[tuple[str, str]], sample: Sequence[tuple[str, str]]
) -> tuple[int, int]:
    """Return how many pairs of inputs are alike, and how many of those have different answers.

    Args:
        everything: Searched for equal inputs; of each group, neighbours are compared.
        sample: Searched for nearly equal ones, pair by pair.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for prompt, completion in everything:
        groups[normalised(prompt)].append(normalised(completion))
    compared = [
        first != second for answers in groups.values() for first, second in pairwise(answers)
    ]
    bags = {normalised(prompt): normalised(completion) for prompt, completion in sample}
    sets = [({*prompt.split()}, answer) for prompt, answer in bags.items()]
    compared += [
        first[1] != second[1]
        for first, second in combinations(sets, 2)
        if _alike(first[0], second[0])
    ]
    return len(compared), sum(compared)


def _alike(first: set[str], second: set[str]) -> bool:
    smaller, larger = sorted((len(first), len(second)))
    if smaller < NEARLY_EQUAL * larger:  # cannot reach it, whatever they share
        return False
    shared = len(first & second)
    return shared >= NEARLY_EQUAL * (len(first) + len(second) - shared)
