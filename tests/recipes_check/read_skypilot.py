"""Let SkyPilot read a recipe's task."""

from __future__ import annotations

from pathlib import Path

import sky
from said import each_recipe


def read(folder: Path) -> str:
    """Return what is asked for; whether a cloud has it is not looked up."""
    del folder
    task = sky.Task.from_yaml("task.yaml")
    (resources,) = task.resources
    if not resources.accelerators or not task.run or not task.setup:
        raise ValueError("no accelerator, setup or run")
    return f"read: {resources.accelerators}, disk of {resources.disk_size} GB"


each_recipe(read)
