"""Let TRL, peft and transformers read what a recipe's train.py tells them, without training."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import datasets
import trl
from said import each_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer


class Read(Exception):
    """The trainer would be made now."""


def _stop(**told: Any) -> None:
    raise Read(told)


def read(folder: Path) -> str:
    """Run a script up to its trainer: SFTConfig and peft's configuration are made for real."""
    trl.SFTTrainer = _stop
    if folder.name in ("hub", "no-data"):  # neither a model of 7B nor data is at hand
        datasets.load_dataset = lambda *_, **__: datasets.Dataset.from_dict({"text": ["a", "b"]})
    if folder.name == "hub":
        tiny = folder.parent.parent.parent.parent.parent / "examples" / "tiny-llama"
        model, tokenizer = AutoModelForCausalLM.from_pretrained, AutoTokenizer.from_pretrained
        AutoModelForCausalLM.from_pretrained = lambda _, **told: model(tiny, **told)
        AutoTokenizer.from_pretrained = lambda _: tokenizer(tiny)
    if folder.name == "liger":  # flash-attn needs a GPU
        model = AutoModelForCausalLM.from_pretrained
        AutoModelForCausalLM.from_pretrained = lambda name, **told: model(
            name, **(told | {"attn_implementation": "sdpa"})
        )
    try:
        runpy.run_path("train.py", run_name="__main__")
    except Read as told:
        args = told.args[0]["args"]
        peft_config = told.args[0].get("peft_config")
        return f"read: {type(args).__name__}, {type(peft_config).__name__}"
    raise RuntimeError("train.py made no trainer")


each_recipe(read)
