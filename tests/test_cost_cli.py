"""`tuneplan cost` and `tuneplan prices`: tables, one JSON object, and one line per problem."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import tuneplan
from advisor.cost_report import CostReport
from advisor.workload import Workload
from trainer.results import ProbeRequest, ProbeResult
from trainer.run_writer import RunWriter, create_run

PROJECT = Path(__file__).parents[1]
SUPPORT_BOT = str(PROJECT / "examples" / "support-bot.yaml")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tuneplan", *arguments])
        with pytest.raises(SystemExit) as stopped:
            tuneplan.main()
        shown = capsys.readouterr()
        return int(stopped.value.code or 0), shown.out, shown.err

    return run


def test_cost_shows_every_strategy_at_80_columns(run) -> None:
    status, out, _ = run("cost", SUPPORT_BOT, "--draws", "20")
    assert status == 0
    for id_ in ("prompt", "long_context", "rag+finetune", "continued_pretraining", "new_model"):
        assert any(line.strip().startswith(id_) for line in out.splitlines()), id_
    assert max(map(len, out.splitlines())) <= 80
    assert "less than prompt" in out
    assert "does not fit RTX 4090" in out
    assert "79.0 %" in out
    assert out.count("…") == 1  # in the heading of the months, nothing is cut off


def test_cost_shows_how_an_amount_is_made(run) -> None:
    status, out, _ = run("cost", SUPPORT_BOT, "--strategy", "rag", "--draws", "20")
    assert status == 0
    for words in ("Reranking", "price of a request", "prices.engineer_hour", "genai-prices 0.2.3"):
        assert words in out


def test_cost_prints_one_json_object_that_reads_back(run) -> None:
    status, out, _ = run("cost", SUPPORT_BOT, "--json", "--draws", "20", "--seed", "3")
    document = json.loads(out)
    assert status == 0
    assert (document["draws"], document["seed"]) == (20, 3)
    assert CostReport.model_validate(document).to_document() == document
    curves = document["curves"]
    assert len(curves["requests_per_month"]) == len(curves["running_usd"]["prompt"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cost", "missing.yaml"), "missing.yaml: no such file"),
        (("cost", SUPPORT_BOT, "--strategy", "magic"), "--strategy: 'magic' is no strategy"),
        (("cost", SUPPORT_BOT, "--run", "nothing"), "nothing"),
        (("prices", "list", "--model", "no-such-model"), "--model: 'no-such-model' has no price"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(run, arguments: tuple[str, ...], words: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_run_on_a_gpu_gives_its_speed_and_one_on_a_cpu_is_refused(run) -> None:
    text = (PROJECT / "tests" / "data" / "tiny_probe_result.json").read_text(encoding="utf-8")
    on_cpu = ProbeResult.model_validate_json(text)
    probe = create_run(ProbeRequest(plan=on_cpu.plan))
    status, _, err = run("cost", SUPPORT_BOT, "--run", "latest")
    assert (status, "measured no training speed" in err) == (2, True)
    RunWriter(probe.folder).result(on_cpu)
    status, _, err = run("cost", SUPPORT_BOT, "--run", "latest")
    assert (status, "was measured on a CPU" in err) == (2, True)
    on_gpu = on_cpu.model_copy(update={"device": "cuda", "device_name": "NVIDIA L4"})
    RunWriter(probe.folder).result(on_gpu)
    status, out, _ = run("cost", SUPPORT_BOT, "--run", "latest", "--json", "--draws", "5")
    inputs = {one["name"]: one for one in json.loads(out)["inputs"]}
    assert status == 0
    assert inputs["training_tokens_per_second"]["basis"] == "measured"
    assert float(inputs["training_tokens_per_second"]["mid"]) == on_cpu.tokens_per_second
    assert inputs["training_gpu_hour"]["label"].endswith(", L4")


def test_prices_are_listed_with_source_and_day(run) -> None:
    status, out, _ = run("prices", "list", "--json")
    document = json.loads(out)
    assert status == 0
    assert len(document["gpus"]) > 100
    assert all(row["page"] and row["checked_at"] for row in document["gpus"])
    assert all(row["source"] and row["checked_at"] for row in document["api"])
    status, out, _ = run("prices", "list")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert run("prices", "forget")[:2] == (0, "There were no fetched prices.\n")


def test_the_documentation_names_every_key_and_every_result() -> None:
    page = (PROJECT / "docs" / "cost.md").read_text(encoding="utf-8")
    for key in Workload.model_fields:
        assert f"`{key}`" in page, key
    for key in CostReport.model_fields:
        assert f"`{key}`" in page, key
