"""Whether the dry run reads every bundled architecture: one model of each, cut to two layers.

    python bench/sweep.py [--model-type TEXT]

Prints a row per model_type: what full fine-tuning, LoRA and QLoRA of the cut model need, or why
there is no answer. Widths, vocabulary and experts are the model's own; of the layers, as many are
kept as show each of its kinds once, at least two.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from estimator.catalogue import ModelCard, bundled_models
from estimator.plan import parse_plan
from estimator.problems import InputError
from reports.units import GIB
from trainer.dryrun import dry_run
from trainer.quiet import quiet_libraries
from trainer.skeleton import transformers_config

METHODS = ("full", "lora", "qlora")
_STEP = {"seq_len": 256, "gradient_accumulation_steps": 1, "gpu": "A100 80GB SXM"}
_MIN_LAYERS = 2
_KINDS = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers")
"""Lists in a configuration that say, layer by layer, of which kind it is."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of one model and method: a peak, or the reason why there is none."""

    peak_allocated_bytes: int | None
    refusal: str
    attention: str
    unquantised: str

    def __str__(self) -> str:
        if self.peak_allocated_bytes is None:
            return self.refusal
        return f"{self.peak_allocated_bytes / GIB:,.1f} GiB ({self.attention})"


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One architecture: its smallest bundled model, and a reading for each method."""

    model_type: str
    model: str
    num_layers: int
    readings: dict[str, Reading]


def smallest_of_each_type() -> dict[str, ModelCard]:
    """Return the smallest bundled model of each model_type, in alphabetical order."""
    cards = sorted(bundled_models(), key=lambda card: (card.config["model_type"], card.parameters))
    smallest: dict[str, ModelCard] = {}
    for card in cards:
        smallest.setdefault(card.config["model_type"], card)
    return smallest


def cut_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with one layer of each kind that it has, and at least two."""
    whole = transformers_config(config, config["model_type"]).to_dict()
    cut = dict(config)
    if "first_k_dense_replace" in config:
        cut["first_k_dense_replace"] = 1  # one dense layer, then one with experts
    kinds = {key: whole[key] for key in _KINDS if isinstance(whole.get(key), list)}
    kept = _first_of_each(list(zip(*kinds.values(), strict=True)))
    cut |= {key: [values[index] for index in kept] for key, values in kinds.items()}
    cut.pop("n_layer", None)
    return cut | {"num_hidden_layers": len(kept)}


def _first_of_each(kinds: list[tuple[Any, ...]]) -> list[int]:
    kept = sorted(kinds.index(kind) for kind in set(kinds))
    return kept + list(range(len(kept), _MIN_LAYERS))


def read(card: ModelCard) -> SweepRow:
    """Dry-run the cut model by each method; a problem with it becomes the reading's reason."""
    config = cut_config(card.config)
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        readings = {method: _read(folder, method) for method in METHODS}
    model_type = card.config["model_type"]
    return SweepRow(model_type, card.id, config["num_hidden_layers"], readings)


def _read(folder: str, method: str) -> Reading:
    try:
        estimate = dry_run(parse_plan({"model": folder, "method": method} | _STEP))
    except InputError as error:
        reason = "; ".join(f"{one.what}; {one.fix}" for one in error.problems)
        return Reading(None, reason, "", "")
    said = "\n".join(estimate.assumptions)
    attention = re.findall(r"Attention runs on the (.+) kernel", said)
    left = re.findall(r".* quantised.*", said)
    return Reading(estimate.peak_allocated_bytes, "", " ".join(attention), " ".join(left))


def sweep(
    model_type: str = "", on_progress: Callable[[str], None] = lambda _: None
) -> list[SweepRow]:
    """Return a row for every bundled model_type whose name holds ``model_type``."""
    rows = []
    for name, card in smallest_of_each_type().items():
        if model_type in name:
            on_progress(name)
            rows.append(read(card))
    return rows


def as_markdown(rows: list[SweepRow]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| model_type | model | layers | full | LoRA | QLoRA |",
        "|---|---|--:|---|---|---|",
    ]
    for row in rows:
        cells = " | ".join(str(row.readings[method]) for method in METHODS)
        lines.append(f"| {row.model_type} | {row.model} | {row.num_layers} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-type", default="", help="only types whose name holds this text")
    arguments = parser.parse_args()
    quiet_libraries()
    rows = sweep(arguments.model_type, lambda name: print(f"reading {name}", file=sys.stderr))
    print(as_markdown(rows))


if __name__ == "__main__":
    main()
