"""Scenario files: read, checked all at once, and written back."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.scenario import load_answers, load_scenario, parse_scenario
from estimator.documents import to_yaml
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
        "plan: seq_len": "greater than or equal to 1",
        "workload.input_tokens": "greater than or equal to 0",
        "workload.output_tokens": "is missing",
        "prices.gpu_hour": "greater than or equal to 0",
    }.items():
        assert any(line.startswith(f"{path}: {start}") and fix in line for line in lines), start
    assert len(lines) == 8


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


def test_wrong_answers_in_a_file_of_their_own_name_the_file(tmp_path):
    path = tmp_path / "answers.yaml"
    path.write_text("tried: bassic\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"answers\.yaml: tried: .*did you mean basic"):
        load_answers(path)
