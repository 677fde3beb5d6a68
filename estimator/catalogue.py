"""The bundled models: facts of public language models, each with its source."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).with_name("data") / "models.json"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One bundled model.

    Attributes:
        id: Its id on the Hugging Face Hub.
        family: What people call the family, for example ``Llama 3.1``.
        license: SPDX identifier where there is one, else the Hub's name for it.
        gated: Whether the Hub asks for the licence to be accepted before a download.
        released: Year and month.
        parameters: Every parameter of the causal language model, tied tensors once.
        active_parameters: Those that one token uses; fewer than all in a mixture of experts.
        config: The architecture's part of config.json; of multimodal models the text part.
        source: Where the configuration's figures come from.
        same_shape: Ids of models with the same tensors (their context length may differ).
        verification: How the parameter count was checked; data/README.md explains the words.
    """

    id: str
    family: str
    license: str
    gated: bool
    released: str
    parameters: int
    active_parameters: int
    config: dict[str, Any]
    source: str
    same_shape: tuple[str, ...]
    verification: str

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id this card answers to."""
        return (self.id, *self.same_shape)


@cache
def bundled_models() -> tuple[ModelCard, ...]:
    """Return every bundled model, in the catalogue's order."""
    rows = json.loads(_TABLE.read_text(encoding="utf-8"))
    return tuple(_card(row) for row in rows)


def _card(row: dict[str, Any]) -> ModelCard:
    return ModelCard(
        id=row["id"],
        family=row["family"],
        license=row["license"],
        gated=row["gated"],
        released=row["released"],
        parameters=row["parameters"],
        active_parameters=row.get("active_parameters", row["parameters"]),
        config=row["config"],
        source=row["source"],
        same_shape=tuple(row.get("same_shape", ())),
        verification=row["verification"]["status"],
    )


@cache
def _spellings() -> dict[str, tuple[str, ModelCard]]:
    """Map each lower-case id to its right spelling and its card; a model's own id comes first."""
    cards = bundled_models()
    shared = {name.lower(): (name, card) for card in cards for name in card.same_shape}
    return shared | {card.id.lower(): (card.id, card) for card in cards}


def find_bundled_model(name: str) -> ModelCard | None:
    """Return the bundled model called ``name``, or one of the same shape; None if there is none.

    Case does not matter.
    """
    found = _spellings().get(name.strip().lower())
    return found[1] if found else None


def bundled_spelling(name: str) -> str:
    """Return a bundled id as the Hub spells it, and any other name as it is."""
    return _spellings().get(name.strip().lower(), (name, None))[0]


def close_bundled_ids(name: str, count: int = 3) -> list[str]:
    """Return bundled ids that look like ``name``, best first; owners may be missing."""
    wanted = name.strip().lower()
    by_text = {key: spelling for key, (spelling, _) in _spellings().items()}
    by_text |= {key.partition("/")[2]: spelling for key, spelling in by_text.items()}
    close = difflib.get_close_matches(wanted, by_text, count * 2, cutoff=0.6)
    return list(dict.fromkeys(by_text[key] for key in close))[:count]
