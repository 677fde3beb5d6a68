"""Uploaded data, kept where the worker process can read it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from estimator.problems import InputError, Problem
from trainer.runs import runs_folder


def save_upload(name: str, content: bytes) -> Path:
    """Write an uploaded file beside the runs and return its path; the same file is kept once.

    Args:
        name: What the visitor's machine called it. Only its plain characters are used.
        content: Its bytes.

    Raises:
        InputError: The folder cannot be written.
    """
    digest = hashlib.sha256(content).hexdigest()[:12]
    stem = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(name).name).strip("-.")[-60:] or "data"
    path = runs_folder().parent / "uploads" / f"{digest}-{stem}"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        what = f"the upload cannot be kept there ({error.strerror})"
        fix = "make it writable, or set TUNEPLAN_HOME to a folder that is"
        raise InputError(Problem(str(path.parent), what, fix=fix)) from error
    return path
