"""The charts. Colours come from the theme, in the fixed order of the memory components."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go

from estimator.estimate import COMPONENTS, MemoryEstimate, Timeline
from estimator.gpus import GIB, Gpu
from reports.levels import sizes
from reports.units import gib

_LINE_COLOR = "#8a939c"
_BAND_COLOR = "rgba(47, 102, 153, 0.35)"
_LIKELY_COLOR = "#2f6699"
_RIGHT_EDGE = 0.8
_HEADROOM = 1.12
_MOST_POINTS = 500
_LABEL_WIDTH = 22
_CATEGORIES = {"autorange": "reversed", "title": None, "tickfont": {"size": 13}}
_LEGEND_BELOW = {
    "orientation": "h",
    "xref": "container",
    "x": 0,
    "yref": "container",
    "y": 0,
    "yanchor": "bottom",
    "traceorder": "normal",
    "entrywidth": 104,
    "font": {"size": 12},
}

CONFIG = {"displayModeBar": False}
"""What every chart is shown with."""


def memory_bars(rows: Sequence[tuple[str, MemoryEstimate]], gpus: Iterable[Gpu]) -> go.Figure:
    """Return one stacked bar per labelled estimate, by component, with GPU memory as lines.

    Bars are the peak of allocated memory in GiB. Only capacities near the bars are drawn.
    """
    figure = go.Figure()
    labels = [label.replace(" · ", "<br>") for label, _ in rows]  # narrow, for a phone
    for component in COMPONENTS:
        sizes = [(estimate.components_bytes.get(component) or 0) / GIB for _, estimate in rows]
        name = component.replace("_", " ")
        figure.add_bar(
            y=labels,
            x=sizes,
            name=name,
            orientation="h",
            showlegend=any(sizes),
            hovertemplate=f"%{{y}}<br>{name}: %{{x:.2f}} GiB<extra></extra>",
        )
    longest = max(estimate.peak_allocated_bytes for _, estimate in rows) / GIB
    for capacity, name in _capacities(gpus, longest):
        figure.add_vline(
            x=capacity,
            line={"color": _LINE_COLOR, "dash": "dot", "width": 1.5},
            annotation={"text": name, "textangle": -90, "font": {"size": 12}},
            annotation_position="top",
        )
    figure.update_layout(
        barmode="stack",
        height=290 + 44 * len(rows),
        margin={"l": 0, "r": 12, "t": 132, "b": 100},
        xaxis={"rangemode": "tozero", "ticksuffix": " GiB", "nticks": 6},
        yaxis=_CATEGORIES,
        legend=_LEGEND_BELOW,
    )
    return figure


def size_bands(estimate: MemoryEstimate, gpu: Gpu) -> go.Figure:
    """Return one bar from low to high for each size, the likely one marked, and the GPU's memory.

    The GPU's line is drawn where it lies within sight: below twice the highest size.
    """
    found = [one for one in sizes(estimate) if one.level in estimate.bands]
    bands = [estimate.bands[one.level] for one in found]
    names = [one.level for one in found]
    low, likely, high = (
        [getattr(band, f"{end}_bytes") / GIB for band in bands] for end in ("low", "likely", "high")
    )
    figure = go.Figure()
    figure.add_bar(
        y=names,
        base=low,
        x=[most - least for most, least in zip(high, low, strict=True)],
        orientation="h",
        width=0.32,
        marker={"color": _BAND_COLOR, "cornerradius": 6},
        hoverinfo="skip",
    )
    figure.add_scatter(
        y=names,
        x=likely,
        mode="markers+text",
        marker={"size": 11, "color": _LIKELY_COLOR},
        text=[f"<b>{one.likely}</b>  {one.spread}" for one in found],
        textposition="top center",
        cliponaxis=False,
        hovertext=[f"{one.name}: likely {one.likely}, {one.spread}" for one in found],
        hoverinfo="text",
    )
    shown = [*low, *high]
    if gpu.memory_gib < 2 * max(high):
        shown.append(gpu.memory_gib)
        figure.add_vline(
            x=gpu.memory_gib,
            line={"color": _LINE_COLOR, "dash": "dot", "width": 1.5},
            annotation={"text": gpu.name, "font": {"size": 12}},
            annotation_position="top",
        )
    room = 0.35 * (max(shown) - min(shown)) + 0.02 * max(shown)  # for the words above the dots
    figure.update_layout(
        height=70 + 54 * len(found),
        margin={"l": 0, "r": 12, "t": 26, "b": 28},
        xaxis={
            "range": (max(0, min(shown) - room), max(shown) + room),
            "ticksuffix": " GiB",
            "nticks": 6,
        },
        yaxis=_CATEGORIES,
        showlegend=False,
    )
    return figure


def step_timeline(timeline: Timeline, colors: Sequence[str]) -> go.Figure:
    """Return the allocated memory over one step, stacked by component.

    Phases and the fullest moment are marked.

    Args:
        timeline: What a dry run recorded.
        colors: The theme's, in the order of the components: areas that leave them to the theme
            are drawn half transparent.
    """
    figure = go.Figure()
    for component, color in zip(COMPONENTS, colors, strict=False):
        sizes = timeline.components_bytes.get(component, ())
        name = component.replace("_", " ")
        figure.add_scatter(
            x=timeline.at,
            y=[size / GIB for size in sizes],
            name=name,
            stackgroup="step",
            line={"width": 0, "shape": "hv", "color": color},
            fillcolor=color,
            showlegend=any(sizes),
            hovertemplate=f"{name}: %{{y:.2f}} GiB<extra></extra>",
        )
    for start, phase in timeline.phase_starts():
        figure.add_vline(
            x=start,
            line={"color": _LINE_COLOR, "dash": "dot", "width": 1},
            annotation={
                "text": phase,
                "font": {"size": 12},
                # the last phase is short: its name would be cut off on the right
                "x": start if start < _RIGHT_EDGE else 1,
                "xanchor": "left" if start < _RIGHT_EDGE else "right",
                "y": 1,
                "yanchor": "bottom",
            },
        )
    totals = timeline.total_bytes()
    peak = max(totals)
    at = timeline.at[totals.index(peak)]
    figure.add_annotation(
        x=at,
        y=peak / GIB,
        text=f"<b>peak {gib(peak)}</b>",
        showarrow=False,
        xanchor="left" if at < _RIGHT_EDGE else "right",
        yanchor="bottom",
    )
    figure.update_layout(
        height=380,
        margin={"l": 0, "r": 12, "t": 24, "b": 84},
        xaxis={"range": (0, 1), "showticklabels": False, "title": None},
        yaxis={"range": (0, _HEADROOM * peak / GIB), "ticksuffix": " GiB", "nticks": 6},
        legend=_LEGEND_BELOW,
        hovermode="x",
    )
    return figure


def _capacities(gpus: Iterable[Gpu], longest_gib: float) -> list[tuple[float, str]]:
    """Return sizes worth a line, with a GPU that has them: up to the first above the longest
    bar, not crowded."""
    chosen: list[tuple[float, str]] = []
    for gpu in sorted(gpus, key=lambda gpu: gpu.memory_gib):
        size = gpu.memory_gib
        if chosen and size - chosen[-1][0] < 0.07 * longest_gib:
            continue
        chosen.append((size, gpu.name))
        if size > longest_gib:
            break
    return [(size, name) for size, name in chosen if size < 2.5 * longest_gib]


def score_bars(scores: Mapping[str, float | None]) -> go.Figure:
    """Return one bar per strategy, best first; a blocked strategy (None) has no bar."""
    names = [
        "<br>".join(textwrap.wrap(name, _LABEL_WIDTH, break_on_hyphens=False)) for name in scores
    ]
    known = [score if score is not None else 0 for score in scores.values()]
    texts = ["ruled out" if score is None else f"{score:.1f}" for score in scores.values()]
    bars = go.Bar(
        y=names, x=known, text=texts, orientation="h", textposition="outside", hoverinfo="skip"
    )
    figure = go.Figure(bars)
    figure.update_layout(
        height=60 + 40 * len(names),
        margin={"l": 0, "r": 12, "t": 4, "b": 0},
        xaxis={"title": "score: the sum of its reasons", "range": _room_for_text(known)},
        yaxis=_CATEGORIES,
        showlegend=False,
    )
    return figure


def _room_for_text(values: Sequence[float]) -> tuple[float, float]:
    """Return an axis range in which the words beside the bars are not cut off."""
    lowest, highest = min(0, *values), max(0, *values)
    width = max(highest - lowest, 1)
    return (lowest - 0.18 * width if lowest < 0 else 0, highest + 0.25 * width)


def curve(steps: Sequence[int], values: Sequence[float | None], title: str) -> go.Figure:
    """Return one value over the steps of a run; long runs are thinned to what a screen shows."""
    stride = max(1, -(-len(steps) // _MOST_POINTS))
    figure = go.Figure(
        go.Scatter(
            x=steps[::stride],
            y=values[::stride],
            mode="lines+markers" if len(steps) <= 60 else "lines",
            hovertemplate="step %{x}: %{y:.4g}<extra></extra>",
        )
    )
    figure.update_layout(
        height=220,
        margin={"l": 0, "r": 12, "t": 8, "b": 0},
        xaxis={"title": "step", "rangemode": "tozero", "tickformat": "d"},
        yaxis={"title": title, "rangemode": "tozero"},
        showlegend=False,
    )
    return figure
