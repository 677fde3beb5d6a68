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
    """Show the peak of each use of the GPU, then main memory and disk."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("peaks on the GPU")
    table.add_column("allocated", justify="right")
    for name, size in gpu_rows(found):
        table.add_row(name, size)
    table.add_section()
    for name, size in other_rows(found):
        table.add_row(name, size)
    return table
