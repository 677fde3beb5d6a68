"""The bundled models and GPUs as Rich renderables."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from estimator.catalogue import ModelCard
from estimator.gpus import Gpu
from reports.units import UNKNOWN, count, number


def models(found: Sequence[ModelCard]) -> RenderableType:
    """Show models, one line each."""
    if not found:
        return Text("No bundled model is called that. Name a Hub id or a folder in the plan.")
    table = _table("model", "parameters", "active", "licence", right=(1, 2))
    for card in found:
        active = "" if card.active_parameters == card.parameters else count(card.active_parameters)
        licence = f"{card.license}{', gated' if card.gated else ''}"
        table.add_row(card.id, count(card.parameters), active, licence)
    return table


def gpus(found: Sequence[Gpu]) -> RenderableType:
    """Show GPUs, one line each."""
    if not found:
        return Text("No bundled GPU is called that. Describe it: gpu: {name: ..., memory_gib: ...}")
    table = _table("GPU", "memory", "GB/s", "bf16 TFLOP/s", right=(1, 2, 3))
    for gpu in found:
        bf16 = gpu.bf16_dense_tflops
        rate = number(bf16, 0) if gpu.has_bf16 else "none"
        bandwidth = gpu.bandwidth_gb_per_second
        memory = f"{gpu.memory_gib:.1f} GiB"
        table.add_row(gpu.name, memory, number(bandwidth, 0) if bandwidth else UNKNOWN, rate)
    return table


def _table(*headings: str, right: tuple[int, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index in right else "left", overflow="fold")
    return table
