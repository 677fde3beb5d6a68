"""Checkpoints of a fine-tune: which ones are whole, which one to go on from, which to delete.

A checkpoint is whole once its manifest is there, which lists every file with its size and digest
and is written last. What a crash or a bad disk left behind is told apart by it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from estimator.documents import write_atomic

MANIFEST = "manifest.json"
NUM_KEPT = 2
"""The newest checkpoints that stay, beside the best: should the last be damaged, one is left."""


def seal(folder: Path) -> None:
    """Declare a checkpoint whole: its files reach the disk, then its manifest does."""
    files = {}
    for path in _files(folder):
        with path.open("rb") as stream:
            files[path.name] = {
                "bytes": path.stat().st_size,
                "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
            }
            os.fsync(stream.fileno())
    write_atomic(folder / MANIFEST, json.dumps(files, indent=2) + "\n")


def to_disk(file: Path) -> None:
    """Have a file reach the disk, where there is one."""
    if file.exists():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def damage(folder: Path) -> str:
    """Return in words what is wrong with a checkpoint, "" where it is whole."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError:
        return "it was not written to its end"
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return "its manifest is damaged"
    for name, (size, digest) in listed.items():
        path = folder / Path(name).name
        if not path.is_file() or path.stat().st_size != size:
            return f"{name} is missing or cut short"
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                return f"{name} is damaged"
    return ""


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint to go on from, and what is wrong with newer ones, in words.

    Args:
        folder: Where ``checkpoint-<step>`` folders lie.
    """
    notes = []
    for checkpoint in reversed(list(_checkpoints(folder))):
        wrong = damage(checkpoint)
        if not wrong:
            return checkpoint, notes
        notes.append(f"{checkpoint.name} is left out: {wrong}")
    return None, notes


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def delete_old(folder: Path, best: str | None) -> None:
    """Delete all but the newest checkpoints and the best one.

    By their steps: their times would mislead where the clock was set.
    """
    for checkpoint in list(_checkpoints(folder))[:-NUM_KEPT]:
        if best is None or checkpoint.name != Path(best).name:
            shutil.rmtree(checkpoint, ignore_errors=True)


def delete_after(folder: Path, step: int) -> None:
    """Delete checkpoints of steps that will be taken again."""
    for checkpoint in _checkpoints(folder):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint, ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST)


def _checkpoints(folder: Path) -> Iterator[Path]:
    """Checkpoint folders, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()]
    return iter(sorted(found, key=step_of))
