"""Code that a model brings along: run for one run only, where a person asked for it in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from estimator.documents import read_text
from estimator.problems import InputError, Problem

FLAG = "--trust-remote-code"
"""What turns it on, for one run."""


def warning(model: str) -> str:
    """Return what has to be said, loudly, wherever such a run is started or shown."""
    return f"This run executes Python code from {model}, with all the rights of your user."


def brings_code(config: dict[str, Any]) -> bool:
    """Return whether a config.json or tokenizer_config.json names Python code beside it."""
    return bool(config.get("auto_map"))


def runs_code(config: dict[str, Any], folder: Path | None) -> bool:
    """Return whether a model or its tokenizer is built by code of its own, where it is trusted.

    Args:
        config: The content of the model's config.json.
        folder: Where it lies, None where it is not on this machine (then neither is a tokenizer).
    """
    if brings_code(config):
        return True
    tokenizer = folder / "tokenizer_config.json" if folder else None
    if tokenizer is None or not tokenizer.exists():
        return False
    text = read_text(tokenizer)
    try:
        return brings_code(json.loads(text))
    except ValueError as error:
        what = f"is not JSON ({error})"
        raise InputError(Problem(str(tokenizer), what, fix="save the tokenizer again")) from error


def needs_flag(name: str, model_type: str) -> InputError:
    """Return the problem of a model that cannot be built without its own code."""
    what = f"transformers knows no architecture {model_type!r}: it is built by code of its own"
    fix = f"read that code; if you trust it, run `tuneplan probe` or `finetune` with {FLAG}"
    return InputError(Problem(f"model: {name}", what, fix=fix))
