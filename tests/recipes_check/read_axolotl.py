"""Let Axolotl's schema read a recipe's config.yaml, as `axolotl train` does first."""

from __future__ import annotations

from pathlib import Path

import yaml
from axolotl.integrations.base import PluginManager
from axolotl.utils.config import prepare_plugins, validate_config
from axolotl.utils.dict import DictDefault
from axolotl.utils.schemas.config import AxolotlInputConfig
from said import each_recipe

GPU = {
    "bf16": True,
    "fp8": False,
    "tf32": True,
    "n_gpu": 1,
    "n_node": 1,
    "compute_capability": "sm_89",
}


def read(folder: Path) -> str:
    """Return what was read; unknown keys are refused, which the schema itself lets pass."""
    del folder
    told = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))
    known = set(AxolotlInputConfig.model_fields)
    if told.get("plugins"):
        known |= {"liger_fused_linear_cross_entropy"}
    unknown = set(told) - known
    if unknown:
        raise ValueError(f"unknown keys: {sorted(unknown)}")
    config = DictDefault(told)
    PluginManager._instance = None  # another recipe's plugins
    prepare_plugins(config)
    found = validate_config(config, GPU, {"torch_version": "2.13.0"})
    for key, value in told.items():
        if key not in ("datasets", "test_datasets") and found.get(key) != value:
            raise ValueError(f"{key}: {value!r} was read as {found.get(key)!r}")
    return f"read: {len(told)} keys"


each_recipe(read)
