"""tuneplan prices: list, refresh, forget."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated

import typer

from commands.shared import AsJson, show

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Prices, their sources and their age."
)


@app.command("list")
def list_(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="ID", help="An API model; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List every price with its source and date; old ones are marked."""
    from estimator.price_list import list_prices
    from reports import terminal_prices

    found = list_prices(model or (), today=_today())
    show(found.to_document(), lambda: terminal_prices.prices(found), as_json)


@app.command()
def refresh(as_json: AsJson = False) -> None:
    """Fetch today's GPU prices through gpuhunt (needs the network)."""
    from estimator.price_refresh import refresh_gpu_prices
    from reports import terminal_prices

    found = refresh_gpu_prices(_today())
    show(found.to_document(), lambda: terminal_prices.refreshed(found), as_json)


@app.command()
def forget(as_json: AsJson = False) -> None:
    """Go back to the GPU prices that tuneplan brings along."""
    from estimator.price_refresh import forget_gpu_prices
    from reports import terminal_prices

    forgotten = forget_gpu_prices()
    show({"forgotten": forgotten}, lambda: terminal_prices.forgotten(forgotten), as_json)


def _today() -> date:
    return datetime.now(tz=UTC).date()
