"""docs/accuracy.md: how near the readings are to what was measured."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.accuracy_rows import OWN_SOURCE, Measured, Note
from bench.accuracy_scores import Score
from bench.accuracy_tables import error_table, method_and_attention, percent, row_table
from trainer.dryrun import software_versions

_TEMPLATE = Path(__file__).with_name("accuracy.template.md")


def page(
    steps: Sequence[Measured],
    scores: Mapping[str, Score],
    notes: Mapping[str, Note],
    *,
    cpu_truth: str,
    formula: str,
    sweep: str,
) -> str:
    """Return the whole page; the last three are finished tables."""
    scored = [scores[step.id] for step in steps]
    today = [one for one in scored if not one.is_apart]
    has_own = any(step.source == OWN_SOURCE for step in steps)
    return _TEMPLATE.read_text(encoding="utf-8").format(
        date=datetime.now(UTC).date(),
        software=", ".join(f"{name} {number}" for name, number in software_versions().items()),
        python=platform.python_version(),
        own=" and runs of `bench/gpu.py`" if has_own else "",
        by_method=error_table("method, attention", today, method_and_attention),
        by_gpu=error_table("GPU", today, lambda one: one.gpu),
        by_source=error_table("source", today, lambda one: one.source),
        apart=error_table("row", [one for one in scored if one.is_apart], lambda one: one.id),
        rows=row_table(steps, scores),
        notes="\n".join(_note(scores[row], note) for row, note in notes.items()),
        cpu_truth=cpu_truth,
        formula=formula,
        sweep=sweep,
    )


def _note(one: Score, note: Note) -> str:
    errors = [f"allocated {percent(one.dry_run_allocated)}"]
    if one.dry_run_reserved is not None:
        errors.append(f"reserved {percent(one.dry_run_reserved)}")
    if one.reserved_with_outputs_held is not None:
        errors.append(f"{percent(one.reserved_with_outputs_held)} with the outputs held")
    return f"- `{one.id}` ({'; '.join(errors)}). {note.why}"
