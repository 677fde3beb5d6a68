"""``tuneplan fit`` as a person meets it: exit status, JSON, what is on the screen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
TEXTBOOK = str(PROJECT / "examples" / "llama-2-7b.yaml")
TINY = str(PROJECT / "examples" / "tiny.yaml")


def tuneplan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuneplan", *arguments],
        cwd=PROJECT,
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_status_1_where_it_does_not_fit_with_the_way_out_on_the_screen() -> None:
    done = tuneplan("fit", TEXTBOOK, "--gpu", "rtx 4090", "--no-dry-run")
    assert done.returncode == 1, done.stderr
    assert "RTX 4090 (23.5 GiB): does not fit, 90.2 GiB short" in done.stdout
    assert "not confirmed by a dry run" in done.stdout
    assert "--set method=lora --set weights_dtype=bf16" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "…" not in done.stdout


def test_status_0_where_it_fits_and_one_json_object() -> None:
    done = tuneplan(
        "fit", TEXTBOOK, "--set", "method=lora", "--set", "weights_dtype=bf16",
        "--gpu", "RTX 4090", "--no-dry-run", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["fits"], document["gpu"]) == ("yes", "RTX 4090")
    assert document["plan"]["gpu"] == "RTX 4090"
    assert document["confirmed_by"] is None
    assert document["largest_micro_batch_size"] > 1
    assert document["longest_seq_len"] > 512
    assert document["stack"] == []
    assert {"headroom_bytes", "methods", "changes", "cheapest_gpus"} <= set(document)


def test_status_2_where_the_input_is_wrong() -> None:
    done = tuneplan("fit", TEXTBOOK, "--gpu", "abacus")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "'abacus' is not a bundled GPU" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    refused = tuneplan("fit", TEXTBOOK, "--no-dry-run", "--set", "parallel.strategy=ddp")
    assert refused.returncode == 2
    assert "dry runs can answer" in refused.stderr


def test_estimate_names_changes_only_where_it_does_not_fit() -> None:
    assert "makes it fit:\n  --set " in tuneplan("estimate", TEXTBOOK).stdout
    fits = tuneplan("estimate", TEXTBOOK, "--set", "gpu=B200 180GB").stdout
    assert "makes it fit" not in fits


def test_dry_runs_confirm_the_answer(tmp_path: Path) -> None:
    """On a GPU smaller than a CUDA context, where few dry runs tell that nothing fits."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"model: {PROJECT / 'examples' / 'tiny-llama'}\nmethod: lora\nseq_len: 64\n"
        "gpu: {name: Thimble, memory_gib: 0.5}\n"
    )
    done = tuneplan("fit", str(plan), "--json")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["confirmed_by"] == document["basis"] == "dry-run"
    assert document["stack_fits"] == "no"
    assert document["largest_micro_batch_size"] is None
    assert document["cheapest_gpus"][0]["confirmed_by"] == "dry-run"
    assert 2 <= document["num_dry_runs"] <= 8
    assert "dry run 1: lora, 1 x 64 tokens on Thimble" in done.stderr
