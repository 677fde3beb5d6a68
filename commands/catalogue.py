"""tuneplan models, gpus: what is bundled, and so works offline."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from commands.shared import AsJson, show

Text = Annotated[
    str, typer.Argument(metavar="[TEXT]", help="Only those whose name has this in it.")
]


def models(text: Text = "", as_json: AsJson = False) -> None:
    """List the bundled models: any other is asked of the Hub."""
    from estimator.catalogue import bundled_models
    from reports import terminal_catalogue

    wanted = text.lower()
    found = [
        card
        for card in bundled_models()
        if any(wanted in name.lower() for name in (*card.ids, card.family))
    ]
    rows = [
        {
            "id": card.id,
            "family": card.family,
            "parameters": card.parameters,
            "active_parameters": card.active_parameters,
            "license": card.license,
            "gated": card.gated,
            "released": card.released,
            "same_shape": list(card.same_shape),
            "source": card.source,
        }
        for card in found
    ]
    show({"models": rows}, lambda: terminal_catalogue.models(found), as_json)


def gpus(text: Text = "", as_json: AsJson = False) -> None:
    """List the bundled GPUs: any other can be described in the plan."""
    from estimator.gpus import bundled_gpus
    from reports import terminal_catalogue

    found = [gpu for gpu in bundled_gpus() if text.lower() in gpu.name.lower()]
    rows: list[dict[str, Any]] = [gpu.model_dump(mode="json") for gpu in found]
    show({"gpus": rows}, lambda: terminal_catalogue.gpus(found), as_json)
