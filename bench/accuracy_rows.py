"""The measured training steps that the readings are scored against, and what is known of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estimator.documents import read_document
from estimator.plan import FineTunePlan, parse_plan

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE / "published"
OWN_SOURCE = "bench/gpu.py"


@dataclass(frozen=True, slots=True)
class Measured:
    """One training step that somebody measured, on a GPU and with libraries that are named."""

    id: str
    source: str
    plan: FineTunePlan
    allocated_bytes: int
    reserved_bytes: int | None


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of a row whose error is large.

    Attributes:
        why: The explanation, in Markdown.
        is_apart: Other libraries than today's took other memory: the row is in no mean.
        holds_outputs: The run's loop held one step's outputs into the next forward pass.
    """

    why: str
    is_apart: bool = False
    holds_outputs: bool = False


def published() -> Iterator[Measured]:
    """Yield the steps that others published."""
    for row in _lines(PUBLISHED / "runs.jsonl"):
        model = PUBLISHED / "models" / row["plan"]["model"]
        yield Measured(
            id=row["id"],
            source=row["source"],
            plan=parse_plan(row["plan"] | {"model": str(model)}, name=row["id"]),
            allocated_bytes=row["peak_allocated_bytes"],
            reserved_bytes=row["peak_reserved_bytes"],
        )


def own() -> Iterator[Measured]:
    """Yield the steps that bench/gpu.py measured."""
    for path in sorted((HERE / "results").glob("*.jsonl")):
        for row in _lines(path):
            measured = row["result"]["measured"]
            if measured is None:  # it ran out of memory
                continue
            yield Measured(
                id=row["run"],
                source=OWN_SOURCE,
                plan=parse_plan(row["result"]["plan"], name=row["run"]),
                allocated_bytes=measured["peak_allocated_bytes"],
                reserved_bytes=measured["peak_reserved_bytes"],
            )


def notes() -> dict[str, Note]:
    """Return what is known of single rows, by row id."""
    document = read_document(PUBLISHED / "notes.yaml")
    return {row: Note(**fields) for row, fields in document.items()}


def in_short(plan: FineTunePlan) -> str:
    """Return a plan in a few words: model, micro-batch and length, attention, checkpointing."""
    words = [
        plan.model.rsplit("/", maxsplit=1)[-1],
        f"{plan.micro_batch_size} x {plan.seq_len:,}",
        plan.attention,
    ]
    if not plan.gradient_checkpointing:
        words.append("no checkpointing")
    return ", ".join(words)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)
