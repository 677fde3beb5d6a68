"""The bundled GPUs, each with its source, and GPUs that a plan describes itself."""

from __future__ import annotations

import csv
import difflib
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from estimator.problems import InputError, Problem

_TABLE = Path(__file__).with_name("data") / "gpus.csv"
GIB = 2**30


class Gpu(BaseModel):
    """A GPU, as far as a plan's memory and time depend on it.

    ``memory_gib`` is what the driver reports as the device's total, a little under the number on
    the box. Peak rates are dense, with fp32 accumulation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    memory_gib: float = Field(gt=0, le=100_000)
    compute_capability: float | None = Field(
        default=8.0, ge=3, description="7.5 is Turing, 8.0 Ampere"
    )
    bandwidth_gb_per_second: float | None = Field(default=None, gt=0)
    bf16_dense_tflops: float | None = Field(default=None, gt=0)
    fp16_dense_tflops: float | None = Field(default=None, gt=0)
    fp32_tflops: float | None = Field(default=None, gt=0, description="without TF32")
    has_bf16: bool = True
    common: bool = Field(default=False, description="shown where no GPU is asked for")
    bundled: bool = Field(default=False, exclude=True)
    source: str = "described in the plan"

    @property
    def memory_bytes(self) -> int:
        """Total device memory in bytes."""
        return round(self.memory_gib * GIB)


@cache
def bundled_gpus() -> tuple[Gpu, ...]:
    """Return every GPU of the catalogue, in its order."""
    with _TABLE.open(encoding="utf-8", newline="") as stream:
        return tuple(_gpu(row) for row in csv.DictReader(stream))


def _gpu(row: dict[str, str]) -> Gpu:
    def number(column: str) -> float | None:
        return float(row[column]) if row[column] else None

    return Gpu(
        name=row["name"],
        memory_gib=float(row["memory_gib"]),
        compute_capability=number("compute_capability"),
        bandwidth_gb_per_second=number("bandwidth_gb_per_second"),
        bf16_dense_tflops=number("bf16_dense_tflops"),
        fp16_dense_tflops=number("fp16_dense_tflops"),
        fp32_tflops=number("fp32_tflops"),
        has_bf16=row["has_bf16"] == "yes",
        common=row["common"] == "yes",
        bundled=True,
        source=row["source"],
    )


def common_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that people ask about most, smallest memory first."""
    return tuple(sorted((g for g in bundled_gpus() if g.common), key=lambda g: g.memory_gib))


@cache
def find_gpu(name: str, *, where: str = "gpu") -> Gpu:
    """Return the bundled GPU called ``name`` (case, spaces and hyphens do not matter).

    Args:
        name: A name of the catalogue, or an unambiguous part of one ("t4", "h100 sxm").
        where: The key to name in a problem.

    Raises:
        InputError: No bundled GPU, or more than one, is called that.
    """
    wanted = _plain(name)
    exact = [gpu for gpu in bundled_gpus() if _plain(gpu.name) == wanted]
    found = exact or [gpu for gpu in bundled_gpus() if wanted and wanted in _plain(gpu.name)]
    if len(found) == 1:
        return found[0]
    names = [gpu.name for gpu in found or bundled_gpus()]
    close = difflib.get_close_matches(name, names, 1, cutoff=0.4)
    fix = f"did you mean {close[0]}?" if close else "describe it: {name: ..., memory_gib: ...}"
    what = f"{name!r} fits {len(found)} bundled GPUs" if found else f"{name!r} is not a bundled GPU"
    raise InputError(Problem(where, what, ", ".join(names), fix))


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
