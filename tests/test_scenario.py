"""Scenario files: read, checked all at once, and written back."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.scenario import load_answers, load_scenario, parse_scenario
from estimator.documents import to_yaml
from estimator.plan import load_plan
from estimator.problems import InputError

SUPPORT_BOT = Path(__file__).parents[1] / "examples" / "support-bot.yaml"


def test_the_support_bot_is_a_whole_scenario():
    scenario = load_scenario(SUPPORT_BOT)
    assert scenario.answers["examples"] == "500_4999"
    assert scenario.plan is not None
    assert scenario.plan.method == "full"
    assert scenario.workload is not None
    assert scenario.workload.requests_per_month == 60_000


def test_a_scenario_written_out_reads_back_the_same(tmp_path):
    scenario = load_scenario(SUPPORT_BOT)
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(scenario.to_document()), encoding="utf-8")
    assert load_scenario(copy) == scenario
    assert parse_scenario(scenario.to_document()) == scenario


def test_every_part_may_be_missing():
    scenario = parse_scenario({})
    assert scenario.answers == {}
    assert scenario.plan is None
    assert scenario.workload is None


def test_problems_of_answers_plan_and_workload_come_out_together(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "titel: x\n"
        "answers: {tried: fewshots, evalz: none}\n"
        "plan: {model: x, method: loraa, seq_len: 0}\n"
        "workload: {requests_per_month: 10, input_tokens: -1}\n"
        "prices: {gpu_hour: -2}\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError) as caught:
        load_scenario(path)
    lines = {str(problem) for problem in caught.value.problems}
    for start, fix in {
        "titel": "did you mean title?",
        "answers: evalz": "did you mean evals?",
        "answers: tried": "did you mean fewshot?",
        "plan: method": "did you mean lora?",
        "plan: model: x": "no such folder or file",
        "plan: seq_len": "greater than or equal to 1",
        "workload.input_tokens": "greater than or equal to 0",
        "workload.output_tokens": "is missing",
        "prices.gpu_hour": "greater than or equal to 0",
    }.items():
        assert any(line.startswith(f"{path}: {start}") and fix in line for line in lines), start
    assert len(lines) == 9


@pytest.mark.parametrize(
    "rest", ["plan: {model: Llama 3, seq_len: 0}", "plan: {model: Llama 3}\nanswers: {tried: x}"]
)
def test_a_model_that_does_not_exist_is_told_with_the_other_problems(tmp_path, rest):
    path = tmp_path / "scenario.yaml"
    path.write_text(rest, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_scenario(path)
    lines = [str(problem) for problem in caught.value.problems]
    assert any(line.startswith(f"{path}: plan: method: is missing") for line in lines)
    assert any(f"{path}: plan: model: Llama 3: no such folder" in line for line in lines)
    assert len(lines) == 3


def test_a_model_on_the_hub_is_not_asked_for_to_list_problems():
    with pytest.raises(InputError) as caught:
        parse_scenario({"plan": {"model": "someone/something"}})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("document", "where"),
    [({"plan": "lora"}, "plan"), ({"answers": ["facts"]}, "answers"), ({"title": ""}, "title")],
)
def test_a_part_of_the_wrong_kind_is_named(document, where):
    with pytest.raises(InputError, match=f"scenario: {where}: "):
        parse_scenario(document)


def test_a_model_beside_the_file_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "here" / "model").mkdir(parents=True)
    path = tmp_path / "here" / "scenario.yaml"
    path.write_text("plan: {model: model, method: lora}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    plan = load_scenario(path).plan
    assert plan is not None
    assert plan.model == str(tmp_path / "here" / "model")


def test_answers_come_from_a_scenario_or_from_a_file_of_their_own(tmp_path):
    path = tmp_path / "answers.yaml"
    path.write_text("tried: basic\nexamples: 1_49\n", encoding="utf-8")
    assert load_answers(path) == {"tried": "basic", "examples": "1_49"}
    assert load_answers(SUPPORT_BOT) == load_scenario(SUPPORT_BOT).answers


@pytest.mark.parametrize("text", ["", "\n \n", "# nothing is known yet\n", "{}"])
def test_an_empty_file_holds_no_answers(tmp_path, text):
    path = tmp_path / "answers.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_answers(path) == {}


def test_wrong_answers_in_a_file_of_their_own_name_the_file(tmp_path):
    path = tmp_path / "answers.yaml"
    path.write_text("tried: bassic\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"answers\.yaml: tried: .*did you mean basic"):
        load_answers(path)


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (load_answers, "{model: x, method: lora, seq_len: 8, gpu: T4}", "is a plan (it has model,"),
        (load_scenario, "{model: x, method: lora}", "is a plan"),
        (load_scenario, "{gap: [facts], tried: basic}", "is a set of answers (it has gap, tried)"),
        (
            load_plan,
            "{title: x, answers: {}, plan: {}}",
            "is a scenario (it has answers, plan), not",
        ),
        (load_plan, "{gap: [facts], examples: 0}", "is a set of answers (it has gap), not a plan"),
    ],
)
def test_a_file_of_another_kind_is_told_in_one_line(tmp_path, read, text, said):
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read(path)
    (problem,) = caught.value.problems
    assert said in str(problem)


@pytest.mark.parametrize("read", [load_answers, load_plan, load_scenario])
def test_of_many_unknown_keys_each_is_named_and_the_known_ones_listed_once(tmp_path, read):
    path = tmp_path / "file.yaml"
    path.write_text("{a: 1, b: 2, c: 3, d: 4, title: x, model: x, method: lora, tried: basic}")
    with pytest.raises(InputError) as caught:
        read(path)
    unknown = [one for one in caught.value.problems if one.where.rpartition(" ")[2] in {*"abcd"}]
    assert len(unknown) == 4
    assert len([one for one in unknown if one.allowed]) <= 1
