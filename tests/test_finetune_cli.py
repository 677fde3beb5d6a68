"""A fine-tune from the terminal: trained, looked at, asked, merged, taken up again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
Tuneplan = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def tuneplan(tmp_path_factory: pytest.TempPathFactory) -> Tuneplan:
    """Run the command as a person would, with one home for all tests of this file."""
    folder = tmp_path_factory.mktemp("cli")
    environment = os.environ | {"TUNEPLAN_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tuneplan", *arguments],
            cwd=folder,
            env=environment | {"PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def finetuned(tuneplan: Tuneplan) -> subprocess.CompletedProcess[str]:
    """A short fine-tune of the tiny example."""
    return tuneplan(
        "finetune",
        str(PROJECT / "examples" / "tiny.yaml"),
        *("--data", str(PROJECT / "examples" / "questions.jsonl")),
        *("--set", "epochs=2", "--set", "padded=true", "--set", "seq_len=96"),
        *("--device", "cpu"),
    )


def test_the_screen_tells_what_was_done_and_whether_it_helped(
    finetuned: subprocess.CompletedProcess[str],
) -> None:
    assert finetuned.returncode == 0, finetuned.stderr
    shown = finetuned.stdout
    for part in ("finished", "validation loss", "before", "after", "Wanted:", "Saved: the adapter"):
        assert part in shown
    assert "evaluating before training" in finetuned.stderr
    assert "Traceback" not in shown + finetuned.stderr


def test_what_was_saved_answers_and_merges(
    finetuned: subprocess.CompletedProcess[str], tuneplan: Tuneplan, tmp_path: Path
) -> None:
    asked = tuneplan("generate", "latest", "--prompt", "What is LoRA?", "--json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)
    merged = tuneplan("merge", "latest", "-o", str(tmp_path / "merged"))
    assert merged.returncode == 0, merged.stderr
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_a_run_is_shown_with_a_command_that_starts_the_same(
    finetuned: subprocess.CompletedProcess[str], tuneplan: Tuneplan
) -> None:
    document = json.loads(tuneplan("runs", "show", "latest", "--json").stdout)
    assert document["state"] == "finished"
    assert document["kind"] == "finetune"
    assert document["num_steps"] == document["total_steps"]
    assert any("validation_loss" in row for row in document["metrics"])
    shown = tuneplan("runs", "show", "latest").stdout.replace("\n", " ")
    assert "tuneplan finetune " in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is no plan"),
        (["--resume", "latest"], "is finished"),
        (["--resume", "nothing"], "no such run"),
        (["PLAN", "--resume", "latest", "--set", "seq_len=64"], "seq_len"),
        (["--resume", "latest", "--data", "other.jsonl"], "--data"),
        (["PLAN", "--data", "missing.jsonl"], "missing.jsonl"),
        (["PLAN", "--set", "data={}"], "needs examples"),
    ],
)
def test_wrong_input_is_named_before_anything_runs(
    arguments: list[str],
    said: str,
    finetuned: subprocess.CompletedProcess[str],
    tuneplan: Tuneplan,
) -> None:
    plan = str(PROJECT / "examples" / "tiny.yaml")
    done = tuneplan("finetune", *(plan if word == "PLAN" else word for word in arguments))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
