"""Make it fit: what each change to the plan saves, one click to apply it, and one to undo it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from estimator.cheapest import GpuOffer
from estimator.fit import WeighedChange
from estimator.fit_report import FitReport, read_fit
from estimator.limits import Limit
from estimator.memory import NoFormula
from estimator.plan import FineTunePlan
from pages.ui import show
from pages.ui.plan_form import WIDGETS, widget_value
from reports.units import UNKNOWN, gib, usd
from reports.words import TRAINING_WORDS

_KEY = "applied_changes"
_COLORS = {"yes": "green", "tight": "orange", "no": "red"}
_FITS = {"yes": "fits", "tight": "tight", "no": "does not fit"}
_WIDTHS = (9, 10, 4)
_FOLLOWS = ("weights_dtype", "adapter.dtype", "adapter.alpha")
"""Keys that the form sets by itself, by method, precision and rank."""


@dataclass(frozen=True, slots=True)
class _Applied:
    """Changes that were applied together, and what the form said before."""

    text: str
    before: dict[str, Any]


def make_it_fit(plan: FineTunePlan) -> None:
    """Show what would make the plan fit its GPU, and on which GPUs it fits as it is."""
    st.subheader("Make it fit")
    _undo()
    try:
        report = _read(plan.model_dump_json())
    except NoFormula:
        st.caption("No formula holds for this plan. `tuneplan fit` searches it by dry runs.")
        return
    st.markdown(_limits(report))
    if report.fits != "yes":
        _stack(report)
    with st.expander("What each change saves", expanded=report.fits != "yes"):
        _changes(report.changes)
    with st.expander(f"GPUs that it fits, by price: {_first(report.cheapest_gpus)}"):
        _offers(report.cheapest_gpus)


@st.cache_data(ttl=300, max_entries=128, show_spinner=False)
def _read(plan_json: str) -> FitReport:
    return read_fit(FineTunePlan.model_validate_json(plan_json))


def _undo() -> None:
    applied = _applied()
    if not applied:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"Applied: {show.plain(' · '.join(one.text for one in applied))}")
        st.button("Undo the last", icon=":material/undo:", on_click=_take_back, key="undo_change")


def _applied() -> list[_Applied]:
    return st.session_state.setdefault(_KEY, [])


def _apply(text: str, keys: Mapping[str, Any]) -> None:
    """Set the form's widgets to what a change says, and remember what they were."""
    values = {WIDGETS[key]: widget_value(key, value) for key, value in keys.items()}
    before = {widget: st.session_state[widget] for widget in values}
    _applied().append(_Applied(text, before))
    st.session_state.update(values)


def _take_back() -> None:
    st.session_state.update(_applied().pop().before)


def _on_form(keys: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the keys that the form has a widget for, None where it cannot make the change."""
    own = {key: value for key, value in keys.items() if key not in _FOLLOWS}
    return own if all(key in WIDGETS for key in own) else None


def _limits(report: FitReport) -> str:
    """Return how far batch and length can grow on the GPU, as a sentence."""
    plan = report.plan
    batch = _limit(report.micro_batch_limit, "largest micro-batch")
    length = _limit(report.seq_len_limit, "longest sequence", " tokens")
    trained = report.trained_length
    if report.seq_len_limit.value and trained and report.seq_len_limit.value > trained:
        length += f" (the model was made for {trained:,})"
    return show.plain(
        f"On {report.gpu}: {batch} at {plan.seq_len:,} tokens, {length} at micro-batch "
        f"{plan.micro_batch_size}. By the formula; a dry run confirms."
    )


def _limit(limit: Limit, what: str, unit: str = "") -> str:
    if limit.basis is None:
        return f"{what} {UNKNOWN}"
    if limit.value is None:
        return f"no {what.rsplit(maxsplit=1)[-1]} fits"
    tight = " (tight)" if limit.fits == "tight" else ""
    return f"{what} {limit.value:,}{unit}{tight}"


def _stack(report: FitReport) -> None:
    """Show the mildest changes that together make the plan fit, and apply them at once."""
    if not report.stack:
        st.markdown("No change to the plan makes it fit.")
        return
    text = " + ".join(change.text for change in report.stack)
    peak = gib(report.stack[-1].peak_allocated_bytes)
    if report.stack_fits == "no":
        st.markdown(show.plain(f"Nothing here makes it fit. What saves most: {text}: {peak}."))
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**Mildest way:** {show.plain(text)}, peak {peak}")
        together = {key: value for change in report.stack for key, value in change.keys.items()}
        _apply_button("Apply", text, together, "apply_stack")


def _changes(changes: Sequence[WeighedChange]) -> None:
    """Show the changes as rows, the least disturbing first; each figure says what it is."""
    for change in changes:
        what, figures, button = st.columns(_WIDTHS, vertical_alignment="center")
        what.markdown(show.plain(change.text), help=f"Price: {change.price}.")
        saves = UNKNOWN if change.saves_bytes is None else gib(change.saves_bytes)
        figures.markdown(
            f"saves {saves}, peak {gib(change.peak_allocated_bytes)}  \n"
            f":{_COLORS[change.fits]}[{_FITS[change.fits]}], "
            f"{TRAINING_WORDS[change.training]} training"
        )
        with button:
            _apply_button("Apply", change.text, change.keys, f"apply_{change.override}")


def _apply_button(label: str, text: str, keys: Mapping[str, Any], key: str) -> None:
    own = _on_form(keys)
    if own is None:
        st.caption("in the plan file")
        return
    st.button(label, key=key, help=f"Apply: {text}", on_click=_apply, args=(text, own))


def _first(offers: Sequence[GpuOffer]) -> str:
    if not offers:
        return "none"
    return f"{offers[0].gpu}, {_price(offers[0])}"


def _price(offer: GpuOffer) -> str:
    if offer.usd_per_hour is None:
        return "price not known"
    return f"{usd(offer.usd_per_hour)} an hour"


def _offers(offers: Sequence[GpuOffer]) -> None:
    """Show the GPUs that the plan fits, the cheapest hour first, each price with its source."""
    if not offers:
        st.markdown("No GPU of the catalogue.")
        return
    lines = ["| GPU | fits | price | from | on | source |", "|---|---|---|---|---|---|"]
    for one in offers:
        count = f", {one.min_gpus} together" if one.min_gpus and one.min_gpus > 1 else ""
        provider = f"{one.provider}, {one.tier}{count}" if one.provider else ""
        cells = (one.gpu, one.fits, _price(one), provider, str(one.checked_at or ""), one.source)
        lines.append("|" + "|".join(show.plain(cell or "") for cell in cells) + "|")
    st.markdown("\n".join(lines))
