"""The advice: published and own cases, sums that can be redone, gates, and what would change it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.answers import parse_answers
from advisor.questions import questions
from advisor.recommend import recommend
from advisor.regions import decision_regions
from advisor.rules import AXES, knowledge_base
from advisor.scenario import bundled_cases, literature_cases
from advisor.scoring import top_strategy
from estimator.problems import InputError

CASES = bundled_cases()
PUBLISHED = [one for one in CASES if one.is_published]
OWN = [one for one in CASES if not one.is_published]
TRAINS = {"finetune", "rag+finetune", "continued_pretraining", "new_model"}


def case(title: str) -> dict:
    """The answers of the case whose title holds ``title``."""
    (found,) = [one for one in CASES if title in one.title]
    return dict(found.answers)


def answer_sets() -> st.SearchStrategy[dict]:
    """Any valid answers, some questions left out."""
    choices = {
        question.id: st.lists(st.sampled_from(question.values), unique=True)
        if question.many
        else st.sampled_from(question.values)
        for question in questions()
    }
    return st.fixed_dictionaries({}, optional=choices)


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: one.title)
def test_published_case_gets_its_strategy(one):
    assert recommend(one.answers).recommendation.strategy == one.strategy


@pytest.mark.parametrize("one", OWN, ids=lambda one: one.title)
def test_own_case_gets_its_strategy(one):
    assert recommend(one.answers).recommendation.strategy == one.strategy


@pytest.mark.parametrize("one", literature_cases(), ids=lambda one: one.title)
def test_case_of_the_literature_gets_what_was_found_there(one):
    assert one.outcome
    assert one.source.url
    assert recommend(one.answers).recommendation.strategy == one.strategy


def test_there_are_twenty_cases_and_more_from_the_literature_for_every_strategy():
    assert (len(PUBLISHED), len(OWN)) == (16, 4)
    strategies = {one.id for one in knowledge_base().strategies}
    assert {one.strategy for one in CASES} == strategies
    assert {one.strategy for one in literature_cases()} == strategies
    assert len({one.title for one in (*CASES, *literature_cases())}) >= 20 + 15


@given(answer_sets())
@settings(max_examples=25, deadline=None)
def test_any_answers_give_advice_whose_sums_hold(answers):
    advice = recommend(answers)
    top = advice.ranking[0]
    assert top.blocked is None
    assert advice.recommendation.strategy == top.strategy == top_strategy(answers)
    assert (advice.method_reason is not None) == (top.strategy in TRAINS)
    assert sum(advice.confidence.evidence.values()) == pytest.approx(1, abs=1e-3)
    for ranked in advice.ranking:
        assert ranked.score == pytest.approx(sum(r.points for r in ranked.reasons), abs=1e-9)
        for reason in ranked.reasons:
            if reason.weight is not None:
                assert reason.points == pytest.approx(reason.axis_points * reason.weight)
    for axis in AXES:
        points = [r.points for r in advice.axis_reasons if r.axis == axis]
        assert advice.axes[axis] == pytest.approx(sum(points))
        assert 0 <= advice.axes[axis] <= 10
    scores = [ranked.score for ranked in advice.ranking if ranked.blocked is None]
    assert scores == sorted(scores, reverse=True)
    assert recommend(answers) == advice


@given(answer_sets())
@settings(max_examples=25, deadline=None)
def test_missing_facts_never_lower_the_need_for_knowledge(answers):
    gap = list(answers.get("gap", []))
    without = recommend(answers | {"gap": [one for one in gap if one != "facts"]})
    with_facts = recommend(answers | {"gap": [*gap, "facts"]})
    assert with_facts.axes["knowledge"] >= without.axes["knowledge"]


@given(answer_sets(), st.sampled_from(questions()), st.data())
@settings(max_examples=25, deadline=None)
def test_what_would_change_names_the_strategy_of_each_changed_answer(answers, question, data):
    advice = recommend(answers)
    value = data.draw(st.sampled_from(question.values))
    if question.many:
        chosen = {*answers.get(question.id, [])} ^ {value}
        value = [one for one in question.values if one in chosen]
    listed = [f for f in advice.what_would_change if (f.question, f.to) == (question.id, value)]
    changed = recommend(answers | {question.id: value}).recommendation.strategy
    if changed == advice.recommendation.strategy:
        assert not listed
    else:
        assert [flip.strategy for flip in listed] == [changed]
        assert listed[0].from_ == parse_answers(answers).get(question.id)


@pytest.mark.parametrize("gap", [[], ["format"]])
def test_nothing_is_trained_for_that_is_not_missing(gap):
    eager = {"tried": "exhausted", "examples": "5k_100k", "task": "stable"}
    answers = case("brand's voice") | eager | {"gap": gap}
    assert recommend(answers).recommendation.strategy == "prompt"
    assert recommend(answers | {"gap": [*gap, "style"]}).recommendation.strategy == "finetune"


def test_no_answers_at_all_give_advice_that_says_how_little_it_knows():
    advice = recommend({})
    assert advice.answered == 0
    assert advice.recommendation.strategy == "prompt"


def test_a_reason_for_a_training_method_comes_only_with_training():
    advice = recommend(case("brand's voice") | {"examples": "1_49", "gpu": "consumer"})
    assert advice.recommendation.strategy not in TRAINS
    assert advice.method_reason is None


def test_document_has_the_fields_others_read():
    document = recommend(case("support bot")).to_document()
    assert {"strategy", "method", "addons", "do_now", "target"} == set(document["recommendation"])
    assert {"axes", "gates", "stability", "answered", "ladder", "confidence"} <= set(document)
    ranked = document["ranking"][0]
    assert {"strategy", "score", "blocked", "reasons"} <= set(ranked)
    assert {"rule", "axis", "points", "text", "source"} <= set(ranked["reasons"][0])
    assert {"question", "from", "to", "strategy"} <= set(document["what_would_change"][0])


def test_stability_is_high_far_from_a_border_and_lower_near_one():
    assert recommend(case("Live prices")).stability > 0.99
    assert 0.4 < recommend(case("Chip design")).stability < 0.95


def test_stability_counts_the_weights_and_says_nothing_where_nothing_is_answered():
    protein = recommend(case("Protein"))
    assert 0.3 < protein.stability < 0.7, "a new model rests on its weight of 1.9 on the domain"
    assert f"{protein.stability:.0%}".replace("%", " %") in protein.confidence.sentence
    nothing = recommend({}).confidence
    assert nothing.sentence.startswith("Nothing is answered")
    assert "%" not in nothing.sentence
    assert isinstance(nothing.stability, float)


@pytest.mark.parametrize(
    ("title", "changes", "closed"),
    [
        ("brand's voice", {"examples": "1_49"}, {"finetune", "rag+finetune"}),
        ("support bot", {"volatility": "daily"}, {"finetune"}),
        ("support bot", {"citations": "must"}, {"prompt", "finetune", "long_context"}),
        ("one handbook", {"acl": "yes"}, {"prompt", "finetune", "long_context"}),
        ("Chip design", {"unlabelled": "lt10m"}, {"continued_pretraining"}),
        ("Chip design", {"skills": "app"}, {"continued_pretraining"}),
        ("Protein", {"budget": "mid"}, {"new_model"}),
        ("brand's voice", {"weights": "closed_only", "egress": "no"}, {"finetune"}),
    ],
)
def test_a_gate_closes_a_strategy_whatever_its_score(title, changes, closed):
    advice = recommend(case(title) | changes)
    blocked = {ranked.strategy for ranked in advice.ranking if ranked.blocked}
    assert closed <= blocked
    assert advice.recommendation.strategy not in blocked


def test_without_an_evaluation_set_building_one_comes_first():
    advice = recommend(case("brand's voice") | {"evals": "none"})
    assert advice.recommendation.strategy == "finetune"
    assert "evaluation set" in advice.recommendation.do_now


def test_too_few_examples_leave_fine_tuning_as_the_target():
    advice = recommend(case("brand's voice") | {"examples": "1_49"})
    assert advice.recommendation.strategy not in TRAINS
    assert advice.recommendation.target == "finetune"
    assert "50 labelled examples" in advice.recommendation.do_now


def test_closed_weights_name_the_hosts_end_dates():
    advice = recommend(case("brand's voice") | {"weights": "closed_only"})
    assert advice.recommendation.method == "hosted"
    assert any(
        offer.provider == "OpenAI" and "2027-01-06" in offer.sentence for offer in advice.hosted
    )
    assert not recommend(case("brand's voice")).hosted


@pytest.mark.parametrize(
    ("title", "changes", "method"),
    [
        ("brand's voice", {"gpu": "consumer"}, "qlora"),
        ("brand's voice", {"gpu": "single"}, "lora"),
        ("brand's voice", {"gpu": "multi", "examples": "gt100k"}, "full"),
        ("Chip design", {}, "full"),
        ("one handbook", {}, None),
    ],
)
def test_method_follows_the_gpu_and_the_data(title, changes, method):
    assert recommend(case(title) | changes).recommendation.method == method


@pytest.mark.parametrize("actions", ["read", "act"])
def test_acting_or_reading_live_systems_adds_tools(actions):
    assert recommend(case("one handbook") | {"actions": actions}).recommendation.addons == (
        "agent",
    )


def test_every_rule_asks_for_answers_that_exist_and_every_question_is_used():
    base = knowledge_base()
    conditions = [*base.rules, *base.gates, *base.methods, *base.smaller_methods, *base.addons]
    conditions += [one for strategy in base.strategies for one in strategy.adjustments]
    values = {question.id: set(question.values) for question in questions()}
    used = set()
    for condition in conditions:
        for lines in (condition.when, condition.unless):
            for question, choices in lines.items():
                assert set(choices) <= values[question]
                used.add(question)
    assert used == set(values)


def test_rules_and_gates_have_names_of_their_own_and_known_strategies():
    base = knowledge_base()
    names = [rule.rule for rule in base.rules] + [gate.gate for gate in base.gates]
    names += [one.rule for strategy in base.strategies for one in strategy.adjustments]
    assert len(names) == len(set(names))
    ids = {strategy.id for strategy in base.strategies}
    assert all(set(one.strategies) <= ids for one in [*base.gates, *base.methods])


def test_the_map_shows_the_strategy_recommended_at_the_scenarios_own_needs():
    answers = case("support bot")
    advice = recommend(answers)
    rows = decision_regions(answers, num_cells=40)
    row = min(int(advice.axes["knowledge"] * 4), 39)
    column = min(int(advice.axes["behaviour"] * 4), 39)
    assert rows[row][column] == advice.recommendation.strategy
    assert rows[0][0] == "prompt"


def test_wrong_answers_are_all_named_with_what_is_allowed():
    document = {"gap": "facts", "tried": "fewshots", "evalz": "none", "citations": ["no"]}
    with pytest.raises(InputError) as caught:
        parse_answers(document, "answers.yaml")
    lines = [str(problem) for problem in caught.value.problems]
    assert len(lines) == 4
    assert "answers.yaml: evalz" in lines[0]
    assert "did you mean evals?" in lines[0]
    assert "allowed: a list of facts" in lines[1]
    assert "did you mean fewshot?" in lines[2]
    assert "allowed: one of no, nice, must" in lines[3]


def test_an_unknown_choice_in_a_list_is_named():
    with pytest.raises(InputError, match="did you mean style"):
        parse_answers({"gap": ["facts", "stile"]})


def test_zero_true_and_null_are_read_as_meant():
    document = {"examples": 0, "acl": True, "teacher": False, "tried": None}
    assert parse_answers(document) == {"examples": "0", "acl": "yes", "teacher": "no"}
