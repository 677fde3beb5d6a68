"""Small pieces that several pages show: problems, tables of estimates, verdicts on GPUs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from estimator.estimate import COMPONENTS, GpuFit, MemoryEstimate
from estimator.problems import InputError
from reports import levels
from reports.units import gib
from reports.words import METHOD_NAMES, basis_name, method_name

__all__ = ["METHOD_NAMES", "basis_name", "method_name"]

_PEAK = "**peak allocated**"
_COLORS = {"yes": "green", "tight": "orange", "no": "red"}


def problems(error: InputError, lead: str = "This input cannot be used:") -> None:
    """Show everything that is wrong with an input as a list, each with its fix."""
    lines = []
    for problem in error.problems:
        line = f"**{plain(problem.where)}**: {plain(problem.what)}."
        if problem.allowed:
            line += f" Allowed: {plain(problem.allowed)}."
        if problem.fix:
            line += f" To fix it: {plain(problem.fix)}."
        lines.append(f"- {line}")
    st.error("\n".join([lead, "", *lines]))


def plain(text: str) -> str:
    """Return a text with Markdown's signs escaped, so that it is shown as it is."""
    text = " ".join(text.split())
    for sign in "\\`*_{}[]()#+-!|~$:<>":
        text = text.replace(sign, "\\" + sign)
    return text


def reading_name(estimate: MemoryEstimate) -> str:
    """Return a reading's method and provenance, as bars and columns are labelled."""
    return f"{method_name(estimate.plan.method)} · {basis_name(estimate)}"


def verdict(fit: GpuFit) -> str:
    """Return whether a step fits a GPU, in words and colour."""
    words = {
        "yes": f"fits, {gib(fit.headroom_bytes)} free",
        "tight": f"tight, {gib(fit.headroom_bytes)} free",
        "no": f"no, {gib(-fit.headroom_bytes)} short",
    }
    return f":{_COLORS[fit.fits]}[{words[fit.fits]}]"


def fits_table(estimates: Sequence[MemoryEstimate]) -> None:
    """Show which GPU each estimate fits on: one row a GPU, one column an estimate."""
    columns = {
        reading_name(estimate): {
            f"{fit.name} ({fit.memory_bytes / 2**30:g} GiB)": verdict(fit)
            for fit in sorted(estimate.gpus, key=lambda fit: fit.memory_bytes)
        }
        for estimate in estimates
    }
    table = pd.DataFrame(columns).fillna("not judged")
    st.table(table, border="horizontal", alt="Which GPU each method fits on")


def breakdown_table(estimates: Sequence[MemoryEstimate], names: Sequence[str]) -> None:
    """Show each estimate's components at its peak, and the totals that follow from it.

    Parts that are nothing, or not known, in every column are left out.
    """
    rows: dict[str, list[int | None]] = {
        component.replace("_", " "): [one.components_bytes.get(component) for one in estimates]
        for component in COMPONENTS
    }
    rows[_PEAK] = [one.peak_allocated_bytes for one in estimates]
    shown = {name: [gib(size) for size in sizes] for name, sizes in rows.items() if any(sizes)}
    shown[_PEAK] = [f"**{size}**" for size in shown[_PEAK]]
    if any(one.device == "cuda" for one in estimates):
        for level, name in tuple(levels.LEVEL_NAMES.items())[1:]:
            shown[name] = [_with_spread(levels.size(one, level)) for one in estimates]
        shown["of it CUDA context"] = [gib(levels.context(one)) for one in estimates]
    table = pd.DataFrame.from_dict(shown, orient="index", columns=list(names))
    st.table(table, border="horizontal", alt="Memory by component at the peak")


def _with_spread(size: levels.Size) -> str:
    if not size.spread:
        return size.likely
    assumed = ", assumed" if size.basis == "assumed" else ""
    return f"{size.likely} ({size.spread}{assumed})"
