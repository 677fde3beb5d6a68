"""Weights are read from safetensors alone: a pickle runs code of its writer's when it is read."""

from __future__ import annotations

from pathlib import Path

from estimator.problems import InputError, Problem

_PICKLED = ("pytorch_model*.bin", "adapter_model*.bin", "*.pt", "*.pth", "*.ckpt")


def has_safetensors(folder: Path) -> bool:
    """Return whether a folder holds its model's, or its adapter's, weights as safetensors.

    Raises:
        InputError: Its only weights are pickles.
    """
    stem = "adapter_model" if (folder / "adapter_config.json").exists() else "model"
    if any(folder.glob(f"{stem}*.safetensors")):
        return True
    pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
    if not pickled:
        return False
    what = f"its weights are pickles ({', '.join(pickled[:3])}), which can run code when read"
    fix = "save it with save_pretrained, which writes safetensors, on a machine that may read them"
    raise InputError(Problem(f"model: {folder}", what, f"{stem}.safetensors", fix))
