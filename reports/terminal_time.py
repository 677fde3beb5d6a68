"""Time and the peaks beside the training step as Rich renderables."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from estimator.estimate import MemoryEstimate
from estimator.other_peaks import OtherPeaks, read_other_peaks
from estimator.throughput import Throughput, read_throughput
from reports.outlook import gpu_rows, other_rows, time_sentence


def outlook(reading: MemoryEstimate) -> RenderableType:
    """Show how long the estimate's step takes, and what is needed beside its memory."""
    return Group("", time(read_throughput(reading.plan)), peaks(read_other_peaks(reading)))


def time(found: Throughput) -> RenderableType:
    """Show the time as one sentence, and how far it can be trusted."""
    parts: list[RenderableType] = [Text(time_sentence(found))]
    if found.step_seconds:
        note = "a roofline by formula, not a measurement; a probe measures it"
        parts.append(Text(note, style="dim"))
    return Group(*parts)


def peaks(found: OtherPeaks) -> RenderableType:
    """Show the GPU's peaks on the left, main memory and disk on the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in ("peak on the GPU", "", "beside it", ""):
        table.add_column(heading, justify="left" if heading else "right")
    left, right = gpu_rows(found), other_rows(found)
    for index in range(max(len(left), len(right))):
        pair = [rows[index] if index < len(rows) else ("", "") for rows in (left, right)]
        table.add_row(*pair[0], *pair[1])
    return table
