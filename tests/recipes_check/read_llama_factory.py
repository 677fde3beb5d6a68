"""Let LLaMA-Factory's parser read a recipe's config.yaml; reading data needs torchaudio."""

from __future__ import annotations

from pathlib import Path

import yaml
from llamafactory.hparams import get_train_args, parser
from said import each_recipe

parser.is_torch_bf16_gpu_available = lambda: True  # the machine that trains has a GPU


def read(folder: Path) -> str:
    """Return what was read; the parser refuses unknown keys."""
    del folder
    told = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))
    on_cpu = {"use_cpu": True, "bf16": False} if told.get("pure_bf16") else {"use_cpu": True}
    model, data, training, tuning, _ = get_train_args(told | on_cpu)
    for part in (model, data, training, tuning):
        for key in told.keys() & vars(part).keys():
            found = getattr(part, key)
            found = getattr(found, "value", found)
            if key == "cutoff_len" and told["packing"]:  # it keeps one for the mask, then adds it
                found += 1
            if found not in (told[key], None) and not isinstance(found, list):
                raise ValueError(f"{key}: {told[key]!r} was read as {found!r}")
    return f"read: {len(told)} keys"


each_recipe(read)
