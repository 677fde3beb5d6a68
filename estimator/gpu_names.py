"""From what a driver calls a GPU to the catalogue's name for it."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from estimator.gpus import Gpu, bundled_gpus

_TABLE = Path(__file__).with_name("data") / "gpu_names.csv"
_BRANDS = ("NVIDIA GeForce ", "NVIDIA ")


def gpu_of_driver(name: str) -> Gpu | None:
    """Return the bundled GPU that a driver calls ``name``, None where the catalogue has none.

    A name is taken whole: "NVIDIA GeForce RTX 4090 Laptop GPU" is no RTX 4090.
    """
    wanted = _driver_names().get(name, name)
    brand = next((one for one in _BRANDS if wanted.startswith(one)), "")
    plain = wanted.removeprefix(brand)
    return next((gpu for gpu in bundled_gpus() if gpu.name == plain), None)


def is_same_gpu(name: str, other: str) -> bool:
    """Return whether two names, each the driver's or the catalogue's, are of one GPU model."""
    return name == other or _catalogue_name(name) == _catalogue_name(other)


def _catalogue_name(name: str) -> str:
    gpu = gpu_of_driver(name)
    return gpu.name if gpu else name


@cache
def _driver_names() -> dict[str, str]:
    with _TABLE.open(encoding="utf-8", newline="") as stream:
        return {row["driver_name"]: row["name"] for row in csv.DictReader(stream)}
