"""Secrets do not reach a log, a status or a published file."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from estimator.problems import InputError
from trainer.redact import (
    MaskedStream,
    mask_document,
    mask_secrets,
    redact_paths,
    redact_plan,
    refuse_secrets,
)

HUB = "hf_" + "a1B2" * 9


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"token={HUB}, and on", "token=***, and on"),
        ("sk-" + "proj-" + "x9" * 12, "***"),
        ("id AKIA" + "ABCDEFGH12345678.", "id ***."),
        ("ghp_" + "Z" * 36, "***"),
        ("github_pat_" + "Z1" * 20, "***"),
        ("Authorization: Bearer " + "abc.def-1234567", "Authorization: Bearer ***"),
        ("https://ann:pass-word@hub.example/x", "https://***@hub.example/x"),
        ("https://:pw@hub.example", "https://***@hub.example"),
    ],
)
def test_keys_are_told_by_their_form(text: str, masked: str) -> None:
    assert mask_secrets(text, {}) == masked


@pytest.mark.parametrize(
    "text",
    [
        "from huggingface_hub import hf_hub_download",
        "hf_transfer is not installed",
        "task-oriented-dialogue-of-the-model at step 3",
        "meta-llama/Llama-3.1-8B-Instruct",
        "https://huggingface.co/owner/name@main",
        "mail ann@example.org about http://127.0.0.1:8501",
        "loss 2.278, 1,024 tokens, sha256 " + "0f" * 32,
        "PAD_TOKEN = </s>",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask_secrets(text, {"HOME": "/home/ann", "PAD_TOKEN": "</s>"}) == text


def test_values_of_variables_that_are_named_secrets_are_masked() -> None:
    variables = {
        "MY_API_KEY": "correct horse",
        "DB_PASSWORD": "correct horse battery",
        "SHORT_TOKEN": "short",
        "PLACE": "correct",
    }
    text = "short: correct horse battery, correct horse, correct"
    assert mask_secrets(text, variables) == "short: ***, ***, correct"


def test_a_stream_masks_a_secret_that_comes_in_pieces() -> None:
    behind = io.StringIO()
    stream = MaskedStream(behind)
    stream.write("loading with " + HUB[:10])
    assert behind.getvalue() == ""
    stream.write(HUB[10:] + "\nstep 1")
    assert behind.getvalue() == "loading with ***\n"
    stream.flush()
    assert behind.getvalue() == "loading with ***\nstep 1"
    threads = [
        threading.Thread(target=lambda: [print(f"a {HUB} line", file=stream) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert HUB not in behind.getvalue()
    assert behind.getvalue().count("a *** line") == 200


def test_all_that_a_worker_prints_logs_or_dies_of_is_masked(tmp_path: Path) -> None:
    code = f"""
import logging, sys, warnings
from trainer.redact import mask_output
mask_output()
print("out {HUB}")
logging.warning("log %s", "{HUB}")
warnings.warn("warned of {HUB}")
sys.stderr.write("half a line {HUB}")
sys.stderr.flush()
print("no end {HUB}", end="")
raise RuntimeError("died of {HUB}")
"""
    log = tmp_path / "log.txt"
    with log.open("wb") as stream:
        command = [sys.executable, "-c", code]
        root = Path(__file__).parents[1]
        status = subprocess.run(command, stdout=stream, stderr=stream, cwd=root, check=False)
    assert status.returncode == 1
    text = log.read_text()
    assert HUB not in text
    for told in ("out ***", "log ***", "warned of ***", "half a line ***", "no end ***"):
        assert told in text
    assert "RuntimeError: died of ***" in text


def test_a_plan_that_holds_a_key_is_refused_without_repeating_it() -> None:
    document = {"model": "a/b", "data": {"path": f"https://x:{HUB}@hub/data.jsonl"}, "list": [HUB]}
    with pytest.raises(InputError) as caught:
        refuse_secrets(document, "plan")
    assert [problem.where for problem in caught.value.problems] == [
        "plan: data.path",
        "plan: list[0]",
    ]
    assert HUB not in str(caught.value)
    refuse_secrets({"model": "a/b"}, "plan")
    assert mask_document({"a": [HUB, 3, None]}) == {"a": ["***", 3, None]}


def test_folders_of_a_machine_are_left_out(tmp_path: Path) -> None:
    plan = {
        "model": "/home/ann/models/tiny",
        "data": {"path": "../private/people.jsonl", "format": "auto"},
        "optimizer": "adamw_torch",
    }
    assert redact_plan(plan) == {
        "model": "tiny",
        "data": {"path": "people.jsonl", "format": "auto"},
        "optimizer": "adamw_torch",
    }
    assert redact_plan({"model": "owner/name"}) == {"model": "owner/name"}
    assert redact_plan({"model": str(tmp_path)}) == {"model": tmp_path.name}
    settings = {
        "base_model_name_or_path": "C:\\Users\\ann\\tiny",
        "_name_or_path": "~/models/tiny",
        "unk_token": "/",
        "eos_token": "</s>",
        "source": "https://huggingface.co/a/b",
    }
    assert redact_paths(settings) == settings | {
        "base_model_name_or_path": "tiny",
        "_name_or_path": "tiny",
    }
