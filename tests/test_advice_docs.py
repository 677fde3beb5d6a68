"""What docs/advice.md and docs/scenario.md say is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from advisor.questions import questions
from advisor.recommend import recommend
from advisor.rules import knowledge_base
from advisor.scenario import bundled_cases, literature_cases, load_scenario, parse_scenario
from advisor.scoring import NUM_DRAWS, SPREAD, applied
from estimator.documents import parse_document
from reports.terminal_advice import points

PROJECT = Path(__file__).parents[1]
ADVICE = (PROJECT / "docs" / "advice.md").read_text(encoding="utf-8")
SCENARIO = (PROJECT / "docs" / "scenario.md").read_text(encoding="utf-8")
HANDBOOK = load_scenario(PROJECT / "examples" / "handbook.yaml")


def test_the_worked_example_can_be_redone_from_what_the_page_says():
    rules = re.findall(r"^\| ([BKD]\d\d) \| (\w+) \| ([+-][\d.]+) \| `(\w+): ", ADVICE, re.M)
    fired = {rule.rule: rule for rule in applied(HANDBOOK.answers).rules}
    assert {name for name, *_ in rules} == set(fired)
    axes = dict.fromkeys(("knowledge", "behaviour", "domain"), 0.0)
    for name, axis, number, question in rules:
        assert (fired[name].axis, fired[name].points) == (axis, float(number))
        assert question in fired[name].when
        axes[axis] += float(number)
    axes = {axis: min(max(value, 0.0), 10.0) for axis, value in axes.items()}
    found = recommend(HANDBOOK.answers)
    assert axes == found.axes
    scores = {one.title: one.score for one in found.ranking}
    rows = re.findall(
        r"^\| ([A-Z][^|]+) \| ((?:\w+ -?[\d.]+(?:, )?)+) \| (.*) \| (.*) \|$", ADVICE, re.M
    )
    assert len(rows) == 4
    for title, weights, adjustments, score in rows:
        total = sum(float(w) * axes[axis] for axis, w in re.findall(r"(\w+) (-?[\d.]+)", weights))
        total += sum(float(n) for n in re.findall(r"[A-Z]\d\d ([+-][\d.]+)", adjustments))
        for each, axis, above in re.findall(
            r"(-[\d.]+) for each point of (\w+) above (\d)", adjustments
        ):
            total += float(each) * max(0.0, axes[axis] - float(above))
        assert total == pytest.approx(scores[title]) == pytest.approx(float(score.split("= ")[-1]))


def test_the_printed_sums_are_those_of_the_program():
    block = re.search(r"```\n(Long context: .*?)```", ADVICE, re.S).group(1)
    found = {one.title: one for one in recommend(HANDBOOK.answers).ranking}
    lines = block.splitlines()
    assert len(lines) == 5
    for line in lines:
        title, _, rest = line.partition(": ")
        terms, _, total = rest.partition(" = ")
        shown = re.findall(r"([+-][\d.]+) ([\w-]+)", terms)
        own = [
            (points(one.points), f"range-{one.axis}" if one.rule == "range" else one.rule)
            for one in found[title].reasons
        ]
        assert shown == own
        assert total == points(found[title].score)


def test_numbers_and_lists_in_the_text_are_the_programs():
    assert f"spread {SPREAD}" in ADVICE
    assert f"{NUM_DRAWS} times" in ADVICE
    assert len(knowledge_base().strategies) == 7
    for question in questions():
        row = re.search(rf"^\| `{question.id}`: (.*) \| (.*) \| (.*) \|$", SCENARIO, re.M)
        assert row, question.id
        assert row.group(1) == question.text
        assert row.group(2).split(", ") == list(question.values)
        assert set(re.findall(r"`(\w+): ", row.group(3))) == set(question.irrelevant_when)


def test_the_cases_are_counted_right():
    words = {"twenty": 20, "twenty-nine": 29, "thirty-one": 31}
    found = re.search(
        r"^([\w-]+) cases .* and ([\w-]+) from the literature .* "
        r"Of the ([\w-]+), ([\w-]+) came out right .*; the others showed that a rule \((\w+)\) .* "
        r"a gate \((\w+)\)",
        ADVICE,
        re.M,
    )
    assert found
    own, all_of_them, again, right = (words[word.lower()] for word in found.groups()[:4])
    assert own == len(bundled_cases())
    assert all_of_them == again == len(literature_cases())
    header = (PROJECT / "advisor" / "data" / "literature.yaml").read_text(encoding="utf-8")
    assert f"{right} of these {again} came out right" in header
    for name in found.groups()[4:]:
        assert f"({name})" in header


def test_the_example_scenario_is_one():
    text = re.search(r"```yaml\n(.*?)```", SCENARIO, re.S).group(1)
    scenario = parse_scenario(parse_document(text, "docs/scenario.md"))
    assert scenario.plan is not None
    assert recommend(scenario.answers, scenario.plan).ranking
