"""What every test shares: no network, a home of its own, and one reading of each tiny plan."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from estimator.plan import FineTunePlan, load_plan

PROJECT = Path(__file__).resolve().parents[1]

# Before torch is imported, here and in every worker: threads of tests that run side by side would
# wait for one another, and tensors this small gain nothing from a second one.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own in place of the user's, and a Hub that cannot be reached."""
    folder = tmp_path / "home"
    monkeypatch.setenv("TUNEPLAN_HOME", str(folder))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture(scope="session")
def tiny_plan() -> FineTunePlan:
    """The bundled tiny Llama, LoRA, in fp32."""
    return load_plan(PROJECT / "examples" / "tiny.yaml")
