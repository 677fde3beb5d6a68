"""A model that brings its own Python code, which leaves a mark whenever it runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

TINY = Path(__file__).parents[1] / "examples" / "tiny-llama"

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({mark!r}).write_text("ran")


class OwnConfig(LlamaConfig):
    model_type = "own_llama"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def write_model(folder: Path, mark: Path) -> Path:
    """Write the tiny Llama as a model of unknown type, built by code that writes ``mark``."""
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "OwnConfig", "AutoModelForCausalLM": "OwnForCausalLM"}
    config |= {
        "model_type": "own_llama",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {auto: f"modeling_own.{name}" for auto, name in names.items()},
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": [None, "modeling_own.OwnTokenizer"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "modeling_own.py").write_text(CODE.format(mark=str(mark)))
    return folder
