"""What somebody's examples say about the gap: signals, each with the answer that it suggests.

A suggestion is never applied. It says what was counted, where the line lies and why it lies there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from advisor import text_measures as measure
from advisor.answers import Answers
from estimator.records import Record

SAMPLE = 500
"""At most so many examples, spread evenly, are read closely: a share is then known to about 4
points (two standard errors of a share of one half)."""

LABEL_WORDS = 3
"""Answers of so many words or fewer are labels: they state nothing of their own."""

FEW = 10
"""Below so many examples a share says too little to suggest anything from it."""


@dataclass(frozen=True, slots=True)
class Example:
    """An input, the answer wanted, and what the model answers today, if that is known."""

    prompt: str
    completion: str
    model_output: str | None = None


class Suggestion(Record):
    """An answer that the examples suggest.

    ``value`` was counted, ``threshold`` is the line that it lies beyond, ``because`` says why the
    line lies there. ``given`` is the answer that there is; ``agrees`` is None where there is none.
    """

    signal: str
    question: str
    answer: str
    evidence: str
    value: float
    threshold: float
    because: str
    given: str | list[str] | None = None
    agrees: bool | None = None


def suggest(examples: Iterable[Example], answers: Answers) -> tuple[Suggestion, ...]:
    """Return what the examples suggest, each laid beside the answer that was given.

    Args:
        examples: All there are; none is changed.
        answers: Those given so far. They stay as they are.
    """
    everything = list(examples)
    found = [*_amount(everything)]
    if len(everything) >= FEW:
        sample = _spread(everything)
        for signal in (_facts, _copies, _novelty, _shape, _lengths, _outputs):
            found += signal(sample)
        found += _consistency(everything, sample)
    return tuple(_beside(one, answers) for one in found)


def _beside(one: Suggestion, answers: Answers) -> Suggestion:
    given = answers.get(one.question)
    agrees = (
        None if given is None else one.answer in (given if isinstance(given, list) else [given])
    )
    return one.model_copy(update={"given": given, "agrees": agrees})


def _spread(examples: Sequence[Example]) -> list[Example]:
    step = max(1.0, len(examples) / SAMPLE)
    return [examples[int(place * step)] for place in range(min(SAMPLE, len(examples)))]


def _amount(examples: Sequence[Example]) -> Iterator[Suggestion]:
    number = len(examples)
    steps = {100_001: "gt100k", 5_000: "5k_100k", 500: "500_4999", 50: "50_499", 1: "1_49"}
    for least, answer in steps.items():
        if number >= least:
            yield Suggestion(
                signal="amount",
                question="examples",
                answer=answer,
                evidence=f"The file holds {number:,} examples.",
                value=number,
                threshold=least,
                because="These are the questionnaire's own steps.",
            )
            return


def _facts(examples: Sequence[Example]) -> Iterator[Suggestion]:
    """Numbers, names and dates of the answer that the input does not hold."""
    counted = [(measure.facts(one.completion), one.prompt.lower()) for one in examples]
    all_facts = sum(len(facts) for facts, _ in counted)
    absent = sum(fact.lower() not in prompt for facts, prompt in counted for fact in facts)
    with_absent = sum(
        any(fact.lower() not in prompt for fact in facts) for facts, prompt in counted
    )
    share = with_absent / len(examples)
    evidence = (
        f"{with_absent} of {len(examples)} answers state a number, name or date that their input "
        f"does not hold ({absent} of {all_facts} such facts)."
    )
    half = "More than half: nearly every answer would be a guess without another source."
    if share > 0.5:
        for question, answer in (("gap", "facts"), ("ext", "core")):
            yield _suggestion(
                "facts not in the input", question, answer, evidence, share, 0.5, half
            )
    elif share > 0.1:
        why = "More than a tenth: too many to be slips of the extraction, too few to be all."
        yield _suggestion("facts not in the input", "ext", "some", evidence, share, 0.1, why)
    if share > 0.1:
        return
    held = measure.held_share([(one.prompt, one.completion) for one in examples])
    if held > 0.5 or measure.mean_words([one.completion for one in examples]) <= LABEL_WORDS:
        why = "At most a tenth, and the answers are labels or made of words from their inputs."
        yield _suggestion("facts not in the input", "ext", "none", evidence, share, 0.1, why)


def _copies(examples: Sequence[Example]) -> Iterator[Suggestion]:
    shares = [measure.copied_share(one.prompt, one.completion) for one in examples]
    mean = sum(shares) / len(shares)
    if mean > 0.5:
        yield _suggestion(
            "copied spans",
            "query",
            "lookup",
            f"On average {mean:.0%} of an answer is one passage copied from its input.",
            mean,
            0.5,
            "More than half: the work is finding the passage, not writing.",
        )


def _novelty(examples: Sequence[Example]) -> Iterator[Suggestion]:
    share = measure.novelty([(one.prompt, one.completion) for one in examples])
    evidence = (
        f"{share:.0%} of the words in the answers stand in no input of theirs "
        "and in no other example."
    )
    if share > 0.3:
        yield _suggestion(
            "novelty",
            "gap",
            "facts",
            evidence,
            share,
            0.3,
            "Above three words in ten each answer brings content of its own, which training on "
            "the other examples cannot teach.",
        )
    elif share < 0.05 and measure.mean_words([one.completion for one in examples]) > LABEL_WORDS:
        yield _suggestion(
            "novelty",
            "gap",
            "style",
            evidence,
            share,
            0.05,
            "Below one word in twenty the answers say known things in a fixed way: a behaviour.",
        )


def _shape(examples: Sequence[Example]) -> Iterator[Suggestion]:
    for shape in ("JSON", "list"):
        share = sum(measure.shape(one.completion) == shape for one in examples) / len(examples)
        if share > 0.9:
            yield _suggestion(
                "output shape",
                "gap",
                "format",
                f"{share:.0%} of the answers are {shape}. If the model's are too, leave this out.",
                share,
                0.9,
                "More than nine in ten: the shape is a requirement, not a habit.",
            )
    distinct = {measure.normalised(one.completion) for one in examples}
    repeats = len(examples) / len(distinct)
    if repeats >= 5 and measure.mean_words(list(distinct)) <= LABEL_WORDS:
        yield _suggestion(
            "output shape",
            "query",
            "generation",
            f"The {len(examples)} answers are {len(distinct)} different short labels: "
            "the task sorts its inputs and looks nothing up.",
            repeats,
            5,
            "Each label stands for five inputs or more, in three words or fewer.",
        )


def _lengths(examples: Sequence[Example]) -> Iterator[Suggestion]:
    """The wanted answers' length against the model's: another length is another style."""
    both = [one for one in examples if one.model_output is not None]
    if len(both) < FEW:
        return
    wanted = measure.mean_words([one.completion for one in both])
    given = measure.mean_words([one.model_output or "" for one in both])
    ratio = max(wanted, given) / max(1.0, min(wanted, given))
    if ratio > 1.5:
        yield _suggestion(
            "output length",
            "gap",
            "style",
            f"The answers wanted have {wanted:.0f} words on average, the model's {given:.0f}.",
            ratio,
            1.5,
            "Half as long again is more than answers to the same inputs differ by chance.",
        )


def _outputs(examples: Sequence[Example]) -> Iterator[Suggestion]:
    """What the model's own answers lack."""
    both = [(one, one.model_output) for one in examples if one.model_output is not None]
    if len(both) < FEW:
        return
    broken = sum(
        measure.shape(one.completion) == "JSON" != measure.shape(output) for one, output in both
    )
    if broken / len(both) > 0.02:
        yield _suggestion(
            "broken shape",
            "gap",
            "format",
            f"{broken} of {len(both)} of the model's answers are not JSON where JSON is wanted.",
            broken / len(both),
            0.02,
            "One in fifty stops a program several times a day.",
        )
    facts = [(measure.facts(one.completion), output.lower()) for one, output in both]
    stated = sum(len(found) for found, _ in facts)
    missed = sum(fact.lower() not in output for found, output in facts for fact in found)
    if stated and missed / stated > 0.5:
        yield _suggestion(
            "facts the model misses",
            "gap",
            "facts",
            f"The model's answers lack {missed} of the {stated} numbers, names and dates wanted.",
            missed / stated,
            0.5,
            "More than half are missing: it does not know them, or does not think them wanted.",
        )


def _consistency(everything: Sequence[Example], sample: Sequence[Example]) -> Iterator[Suggestion]:
    """Inputs that are equal or nearly so, whose answers differ."""
    pairs = [(one.prompt, one.completion) for one in everything]
    near = [(one.prompt, one.completion) for one in sample]
    alike, conflicts = measure.conflicts(pairs, near)
    if alike < FEW:
        return
    share = conflicts / alike
    evidence = f"Of {alike} pairs of equal or nearly equal inputs, {conflicts} have other answers."
    is_poor = share > 0.05
    yield _suggestion(
        "label consistency",
        "labels",
        "poor" if is_poor else "ok",
        evidence,
        share,
        0.05,
        "Well-known test sets have at least 3.3 % wrong labels on average (Northcutt et al., arXiv "
        f"2103.14749): {'more' if is_poor else 'no more'} than one in twenty is "
        f"{'worse than usual' if is_poor else 'usual'}.",
    )


def _suggestion(
    signal: str,
    question: str,
    answer: str,
    evidence: str,
    value: float,
    threshold: float,
    because: str,
) -> Suggestion:
    return Suggestion(
        signal=signal,
        question=question,
        answer=answer,
        evidence=evidence,
        value=round(value, 4),
        threshold=threshold,
        because=because,
    )
