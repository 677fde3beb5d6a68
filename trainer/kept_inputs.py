"""What a run was begun with, so that it is not gone on with anything else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from estimator.documents import write_atomic
from estimator.problems import InputError, Problem


def check_same(folder: Path, inputs: Mapping[str, str]) -> None:
    """Refuse to go on with inputs that have changed since the run began.

    Args:
        folder: The run's.
        inputs: The fingerprint of each, by what a person calls it.

    Raises:
        InputError: Some have changed.
    """
    file = folder / "inputs.json"
    if not file.exists():
        return
    kept = json.loads(file.read_text(encoding="utf-8"))
    fix = "put back what was there, or start a new run"
    problems = [
        Problem(name, "has changed since the run began", fix=fix)
        for name, fingerprint in inputs.items()
        if kept.get(name) != fingerprint
    ]
    if problems:
        raise InputError(problems)


def keep(folder: Path, inputs: Mapping[str, str]) -> None:
    """Write down what a run begins with."""
    write_atomic(folder / "inputs.json", json.dumps(dict(inputs), indent=2) + "\n")


def model_fingerprint(folder: Path) -> str:
    """Return a hash of a model's configuration, and of its weight files' names and sizes.

    Their content is left out: of a large model it takes minutes to read.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()
