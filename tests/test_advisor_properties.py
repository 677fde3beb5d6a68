"""What holds of the advice whatever the answers, and its parts: method, ladder, words, examples."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.answers import answered_share, open_questions, parse_answers, relevant_answers
from advisor.data_signals import Example, suggest
from advisor.hosted import hosted_offers
from advisor.learn import find_topic, topics, topics_for
from advisor.questions import find_question, questions
from advisor.recommend import recommend
from advisor.rules import knowledge_base
from advisor.scenario import bundled_cases, literature_cases
from advisor.scoring import applied, top_strategy
from estimator import prices_hosted
from estimator.plan import parse_plan
from estimator.problems import InputError

ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        question.id: st.lists(st.sampled_from(question.values), unique=True)
        if question.many
        else st.sampled_from(question.values)
        for question in questions()
    },
)
EVERYTHING = knowledge_base()


def case(title: str) -> dict:
    (found,) = [one for one in bundled_cases() if title in one.title]
    return dict(found.answers)


@given(ANSWERS, st.sampled_from(questions()), st.data())
@settings(max_examples=60, deadline=None)
def test_one_more_answer_never_lowers_answered(answers, question, data):
    value = data.draw(st.sampled_from(question.values))
    fewer = {key: answer for key, answer in answers.items() if key != question.id}
    more = {**fewer, question.id: [value] if question.many else value}
    before, after = parse_answers(fewer), parse_answers(more)
    assert answered_share(after) >= answered_share(before)
    assert {one.id for one in open_questions(after)} <= {one.id for one in open_questions(before)}


@given(ANSWERS, st.randoms())
@settings(max_examples=30, deadline=None)
def test_order_is_irrelevant_and_what_is_blocked_is_never_recommended(answers, random):
    items = [(key, random.sample(v, len(v)) if key == "gap" else v) for key, v in answers.items()]
    shuffled = dict(random.sample(items, len(items)))
    top = top_strategy(parse_answers(answers))
    assert top == top_strategy(parse_answers(shuffled))
    assert not applied(parse_answers(answers)).blocks(top)
    no_documents = parse_answers({**answers, "corpus": "none"})
    no_need = parse_answers({**answers, "ext": "none"})
    for without in (no_documents, no_need):
        assert "rag" not in top_strategy(without)
        assert "long_context" not in top_strategy(without)
        found = applied(without)
        assert found.blocks("rag")
        assert found.blocks("rag+finetune")


@given(ANSWERS)
@settings(max_examples=30, deadline=None)
def test_without_an_answer_no_rule_speaks_that_needs_it(answers):
    given_answers = parse_answers(answers)
    for gone in given_answers:
        rest = {key: value for key, value in given_answers.items() if key != gone}
        found = applied(rest)
        speaking = [*found.rules, *(one for some in found.adjustments.values() for one in some)]
        assert not any(gone in condition.when for condition in speaking)


def test_an_irrelevant_answer_is_set_aside_and_said():
    answers = case("brand's voice") | {"citations": "must", "volatility": "daily"}
    found = recommend(answers)
    assert {one.question for one in found.set_aside} >= {"citations", "volatility"}
    assert "Not at all" in found.set_aside[0].text
    plain = recommend(case("brand's voice"))
    assert (found.ranking, found.axes) == (plain.ranking, plain.axes)
    assert "citations" not in relevant_answers(parse_answers(answers))


def test_help_says_what_to_answer_where_each_request_brings_its_own_document():
    assert "each request brings its own document" in find_question("corpus").help
    aside = find_question("ext").help
    assert {"volatility", "corpus", "citations", "acl", "halluc"} == {
        one.id for one in questions() if one.made_irrelevant_by({"ext": "none"})
    }
    for word in ("changes", "size", "citations", "permissions", "invention"):
        assert word in aside
    contract = {"gap": ["facts"], "ext": "core", "corpus": "lt200k", "query": "whole_doc"}
    found = recommend(contract | {"citations": "must", "halluc": "low"})
    assert found.recommendation.strategy == "long_context", "it goes whole into the prompt"
    assert not found.set_aside


def test_whoever_has_no_documents_is_told_to_write_them_down_or_to_use_tools():
    without = case("edited weekly, with citations") | {"corpus": "none"}
    found = recommend(without)
    assert found.recommendation.strategy == "prompt"
    assert found.recommendation.target == "rag"
    assert "documents that the answers rest on" in found.recommendation.do_now
    live = recommend(case("Live prices") | {"corpus": "none", "actions": "read"})
    assert live.recommendation.strategy == live.recommendation.target == "prompt"
    assert live.recommendation.addons == ("agent",)


def test_reasons_for_long_context_do_not_argue_for_retrieval():
    advice = recommend(case("one handbook") | {"citations": "nice", "halluc": "low"})
    assert advice.recommendation.strategy == "long_context"
    reasons = [one.text for one in advice.ranking[0].reasons if one.points > 0]
    assert len(reasons) > 5
    assert not [
        one for one in reasons if "retriev" in one.replace("nothing has to be retrieved", "")
    ]


@pytest.mark.parametrize(
    ("plan", "answers", "method", "said"),
    [
        ({"model": "meta-llama/Llama-2-7b-hf", "gpu": "RTX 4090"}, {}, "lora", "LoRA fits"),
        ({"model": "meta-llama/Llama-2-13b-hf", "gpu": "RTX 4090"}, {}, "qlora", "LoRA does not"),
        ({"model": "meta-llama/Llama-2-70b-hf", "gpu": "RTX 4090"}, {}, None, "QLoRA does not fit"),
        (None, {"gpu": "consumer"}, "qlora", "LoRA does not fit: it needs 19.7 GiB"),
        (None, {"gpu": "multi", "examples": "gt100k"}, "full", "each of 8 A100"),
        (None, {"weights": "closed_only"}, "hosted", "by their host"),
    ],
)  # fmt: skip
def test_the_method_is_what_fits_by_the_estimate(plan, answers, method, said):
    plan = parse_plan(plan | {"method": "lora", "seq_len": 512}) if plan else None
    found = recommend(case("brand's voice") | answers, plan)
    assert found.recommendation.method == method
    assert said in found.method_reason
    assert ("smaller model" in found.recommendation.do_now) == (method is None)
    for verdict in found.memory.verdicts if found.memory else ():
        needs_more = verdict.needed_bytes > verdict.gpu_memory_bytes
        assert needs_more == (verdict.fits == "no") == ("does not fit" in verdict.text)


def test_the_hosts_end_dates_are_those_of_their_prices():
    priced = {one.provider: one for one in prices_hosted.hosted_offers()}
    sentences = {one.provider: one.sentence for one in hosted_offers()}
    for provider in ("OpenAI", "Cohere"):
        assert f"no new jobs after {priced[provider].new_jobs_until}" in sentences[provider]
    assert f"answer until {priced['OpenAI'].served_until}" in sentences["OpenAI"]
    assert "no new jobs" not in sentences["Azure"], "no end is announced"


def test_the_ladder_goes_from_what_is_done_to_what_evidence_opens():
    ladder = recommend(case("brand's voice") | {"evals": "none", "examples": "1_49"}).ladder
    steps = {rung.rung: rung for rung in ladder}
    assert [rung.when for rung in ladder] == sorted(
        (rung.when for rung in ladder), key=["done", "now", "later"].index
    )
    assert steps["evals"].when == "now"
    assert steps["finetune"].when == "later"
    assert "50 labelled examples" in " ".join(steps["finetune"].missing)
    assert all(rung.evidence and rung.what for rung in ladder)
    farmers = {rung.rung: rung.when for rung in recommend(case("farmers")).ladder}
    assert (farmers["prompt"], farmers["rag"], farmers["rag+finetune"]) == ("done", "now", "now")


WORDS = {
    "evals": "evaluation set",
    "prompt": " prompt",
    "long_context": "whole corpus",
    "rag": "retriev|ndex the documents",
    "finetune": "ine-tun",
    "rag+finetune": "fine-tune on examples that contain retrieved passages",
    "continued_pretraining": "text of the field",
    "new_model": "small model",
}


def assert_first_is_what_the_ladder_marks_as_now(found):
    first = found.recommendation.do_now
    now = [rung for rung in found.ladder if rung.when == "now"]
    assert now
    places = []
    for rung in now:
        words = WORDS.get(rung.rung, re.escape(rung.what[1:]))
        places.append(re.search(words, first, re.I))
        assert places[-1], f"{rung.rung} is not in: {first}"
    if now[0].rung == "evals":
        assert places[0].start() == min(place.start() for place in places), "evidence comes first"


FEW = {"examples": "1_49", "teacher": "no"}


@pytest.mark.parametrize(
    "changes",
    [{}, FEW, {"evals": "none"}, {"tried": "none"}, {"tried": "basic", **FEW}, {"corpus": "none"}],
    ids=str,
)
def test_first_is_what_the_ladder_marks_as_now_in_all_cases(changes):
    for one in (*bundled_cases(), *literature_cases()):
        assert_first_is_what_the_ladder_marks_as_now(recommend(one.answers | changes))


@given(ANSWERS)
@settings(max_examples=40, deadline=None)
def test_first_is_what_the_ladder_marks_as_now_whatever_is_answered(answers):
    assert_first_is_what_the_ladder_marks_as_now(recommend(answers))


def test_what_only_the_target_waits_for_comes_after_the_advices_own_first_step():
    found = recommend(case("farmers") | FEW)
    choice = found.recommendation
    assert (choice.strategy, choice.target) == ("rag", "rag+finetune")
    assert choice.do_now.startswith("Index the documents")
    assert "50 labelled" not in choice.do_now
    waiting = next(rung for rung in found.ladder if rung.rung == "rag+finetune")
    assert (waiting.when, "50 labelled" in " ".join(waiting.missing)) == ("later", True)
    tried = recommend(case("brand's voice") | FEW)
    assert (tried.recommendation.strategy, tried.recommendation.target) == ("prompt", "finetune")
    assert tried.recommendation.do_now.startswith("Collect 50"), "the prompt has been tried"
    assert {rung.rung: rung.when for rung in tried.ladder}["prompt"] == "done"


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ("1_49", "50 to 500 checked"),
        ("50_499", "50 to 499 examples that there are"),
        ("500_4999", "500 to 4,999 examples that there are"),
        ("gt100k", "then on all of them"),
    ],
)
def test_the_ladder_speaks_of_the_examples_that_there_are(examples, said):
    ladder = recommend(case("brand's voice") | {"examples": examples}).ladder
    (rung,) = [one for one in ladder if one.rung == "finetune"]
    assert said in rung.what
    assert rung.what.endswith("with the best prompt on the evaluation set.")


def test_every_topic_is_short_and_cited_and_every_link_leads_somewhere():
    names = [name for topic in topics() for name in (topic.id, *topic.also)]
    assert len(names) == len(set(names))
    for topic in topics():
        assert 80 <= len(f"{topic.what} {topic.pays} {topic.mistake}".split()) <= 200, topic.id
        assert topic.sources
        assert all(source.url.startswith("https://") for source in topic.sources)
        assert all(find_topic(other).id == other for other in topic.see)
    linked = {name for question in questions() for name in question.learn}
    for strategy in EVERYTHING.strategies:
        for method in (None, "full", "lora", "qlora", "hosted"):
            linked |= {*topics_for(strategy.id, method)}
    assert all(find_topic(name).id == name for name in linked)


def test_common_mistakes_are_put_right():
    assert "removes no parameter" in find_topic("ZeRO").mistake
    assert "far less" in find_topic("LoRA").mistake
    assert "not fine-tuning" in find_topic("system prompt").mistake
    assert "112 GB" in find_topic("full").what
    with pytest.raises(InputError, match="did you mean qlora"):
        find_topic("qlorra")


def suggested(examples: list[Example], **answers) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in suggest(examples, parse_answers(answers)):
        found.setdefault(one.question, set()).add(one.answer)
        assert one.evidence
        assert one.because
    return found


def test_facts_that_no_input_holds_suggest_outside_knowledge():
    towns = ["Aarhus", "Bergen", "Cork", "Delft", "Essen", "Faro"]
    bare = [
        Example(
            f"Who leads office {n}?", f"The office in {towns[n % 6]} is led by Dr Kowalski-{n}."
        )
        for n in range(40)
    ]
    found = suggested(bare)
    assert "core" in found["ext"]
    assert "none" not in found["ext"]
    assert "facts" in found["gap"]
    given = [Example(f"{one.prompt} {one.completion}", one.completion) for one in bare]
    found = suggested(given)
    assert found["ext"] == {"none"}
    assert found["query"] == {"lookup"}, "the answers are copied from their inputs"


def test_one_input_with_two_answers_suggests_poor_labels():
    tickets = [
        Example(f"Ticket {n % 10}: it is slow!", "speed" if n < 10 else "other") for n in range(20)
    ]
    assert suggested(tickets)["labels"] == {"poor"}
    same = [Example(f"Ticket {n % 10}: it is slow!", "speed") for n in range(20)]
    assert suggested(same)["labels"] == {"ok"}
    assert "generation" in suggested(same)["query"], "one label: nothing is looked up"


def test_what_the_model_answers_today_shows_shape_length_and_facts():
    wanted = '{"order": %d, "state": "sent"}'
    rows = [
        Example(f"Order {n}", wanted % n, f"I think that order {n} was sent already.")
        for n in range(20)
    ]
    found = suggest(rows, parse_answers({"gap": ["format"]}))
    broken = next(one for one in found if one.signal == "broken shape")
    assert (broken.answer, broken.value, broken.agrees) == ("format", 1.0, True)
    good = [Example(one.prompt, one.completion, one.completion) for one in rows]
    assert not [one for one in suggest(good, {}) if one.signal in ("broken shape", "output length")]


def test_answers_of_their_own_words_suggest_content_and_fixed_ones_a_behaviour():
    words = [f"w{n:03d}" for n in range(400)]
    own = [Example(f"Question {n}?", " ".join(words[n * 8 : n * 8 + 8])) for n in range(20)]
    assert "facts" in suggested(own)["gap"]
    fixed = [
        Example(f"Complaint {n}", "We are sorry to hear that, and will help.") for n in range(20)
    ]
    assert suggested(fixed)["gap"] == {"style"}
    assert "ext" not in suggested(fixed), "it shows nothing about knowledge"


def test_a_handful_of_examples_suggests_nothing_but_its_number():
    assert suggested([Example("a", "b")] * 3) == {"examples": {"1_49"}}
