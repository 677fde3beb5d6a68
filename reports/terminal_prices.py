"""Prices as Rich renderables: readable at 80 columns, and without colour."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from estimator.price_list import PriceList
from estimator.price_refresh import Refreshed
from reports.units import UNKNOWN

_OLD = " old"


def prices(found: PriceList) -> RenderableType:
    """Show every price with its date, and where it comes from."""
    return Group(
        _gpus(found),
        _api(found),
        _hosted(found),
        _services(found),
        _overrides(found),
        *(Text(f"! {one}", style="yellow") for one in found.warnings),
        Text(f"GPU prices fetched with `tuneplan prices refresh`: {found.fetched_prices}")
        if found.fetched_prices
        else Text("`tuneplan prices refresh` fetches today's GPU prices.", style="dim"),
    )


def refreshed(found: Refreshed) -> RenderableType:
    """Show what was fetched."""
    without = f"No prices of {', '.join(found.without_prices)}." if found.without_prices else ""
    return Group(
        Text(f"{found.num_prices} prices of {', '.join(found.providers)}, kept in {found.path}"),
        *([Text(without)] if without else []),
        Text(
            "`tuneplan prices forget` goes back to those that tuneplan brings along.", style="dim"
        ),
    )


def forgotten(was_there: bool) -> RenderableType:
    """Show whether fetched prices were there to forget."""
    return Text("Fetched prices are forgotten." if was_there else "There were no fetched prices.")


def amount(usd: Decimal | None) -> str:
    """Return a price as it is quoted, without rounding."""
    if usd is None:
        return UNKNOWN
    digits = max(2, -int(usd.normalize().as_tuple().exponent))
    return f"${usd:.{digits}f}"


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...], last: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")
    table.title_style = "bold"
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    table.add_column(last)
    return table


def _date(checked_at: date | None, *, is_old: bool = False) -> Text:
    if checked_at is None:
        return Text("no date", style="yellow")
    return Text(f"{checked_at}{_OLD if is_old else ''}", style="yellow" if is_old else "")


def _gpus(found: PriceList) -> RenderableType:
    table = _table("GPUs by the hour", ("GPU", "provider"), ("a GPU", "at least"), "seen on")
    for row in found.gpus:
        table.add_row(
            row.gpu,
            f"{row.provider}, {row.tier}",
            amount(row.usd_per_gpu_hour),
            str(row.min_gpus),
            _date(row.checked_at, is_old=row.is_old),
        )
    return table


def _api(found: PriceList) -> RenderableType:
    title = "API models, per million tokens"
    right = ("input", "cached", "write", "output", "batch", "its output")
    table = _table(title, ("model",), right, "seen on")
    for row in found.api:
        amounts = (
            row.input_mtok,
            row.cached_read_mtok,
            row.cache_write_mtok,
            row.output_mtok,
            row.batch_input_mtok,
            row.batch_output_mtok,
        )
        shown = ("-" if one is None else amount(one) for one in amounts)
        table.add_row(row.model, *shown, _date(row.checked_at))
    return table


def _hosted(found: PriceList) -> RenderableType:
    title = "Hosted fine-tuning, per million training tokens"
    table = _table(title, ("provider", "for", "new jobs"), ("tokens",), "seen on")
    for row in found.hosted:
        one = row.offer
        size = f"{one.min_parameters_billions} to {one.max_parameters_billions} B"
        what = one.model or size
        until = f"until {one.new_jobs_until}" if one.new_jobs_until else "open"
        table.add_row(
            one.provider,
            f"{one.method}, {what}",
            until if row.is_open else f"closed {one.new_jobs_until}",
            amount(one.usd_per_mtok),
            _date(one.checked_at, is_old=row.is_old and one.checked_at is not None),
        )
    return table


def _services(found: PriceList) -> RenderableType:
    table = _table("Services and people", ("what", "unit"), ("low", "likely", "high"), "seen on")
    for one in found.services:
        amounts = (amount(value) for value in (one.low, one.mid, one.high))
        table.add_row(one.label, one.unit, *amounts, _date(one.checked_at))
    return table


def _overrides(found: PriceList) -> RenderableType:
    table = _table("What a scenario's `prices` may set", ("name",), (), "what it is")
    for name, label in found.overrides.items():
        table.add_row(name, label)
    return table
