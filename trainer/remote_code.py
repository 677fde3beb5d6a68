"""Code that a model brings along: run for one run only, where a person asked for it in words."""

from __future__ import annotations

from typing import Any

from estimator.problems import InputError, Problem

FLAG = "--trust-remote-code"
"""What turns it on, for one run."""


def warning(model: str) -> str:
    """Return what has to be said, loudly, wherever such a run is started or shown."""
    return f"This run executes Python code from {model}, with all the rights of your user."


def brings_code(config: dict[str, Any]) -> bool:
    """Return whether a config.json names Python code of the model's own."""
    return bool(config.get("auto_map"))


def needs_flag(name: str, model_type: str) -> InputError:
    """Return the problem of a model that cannot be built without its own code."""
    what = f"transformers knows no architecture {model_type!r}: it is built by code of its own"
    fix = f"read that code; if you trust it, run `tuneplan probe` or `finetune` with {FLAG}"
    return InputError(Problem(f"model: {name}", what, fix=fix))
