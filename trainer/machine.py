"""What this machine can do: its GPUs, memory, disk and libraries, without importing torch."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from estimator.records import Record
from trainer.runs import runs_folder

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "huggingface_hub")


class LocalGpu(Record):
    """A GPU of this machine, as its driver reports it; None is what the driver does not say."""

    name: str
    memory_bytes: int | None
    free_bytes: int | None


class Machine(Record):
    """What a probe can count on here. ``driver`` is None where no NVIDIA driver answers."""

    python: str
    system: str
    software: dict[str, str | None]
    cpu_cores: int
    memory_bytes: int
    available_bytes: int
    driver: str | None
    cuda: str | None
    gpus: tuple[LocalGpu, ...]
    runs_folder: str
    runs_folder_writable: bool
    disk_free_bytes: int


def describe_machine() -> Machine:
    """Return what this machine can do."""
    memory = psutil.virtual_memory()
    folder = runs_folder().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    driver, cuda, gpus = _nvidia()
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        software={name: _version(name) for name in LIBRARIES},
        cpu_cores=psutil.cpu_count() or 1,
        memory_bytes=memory.total,
        available_bytes=memory.available,
        driver=driver,
        cuda=cuda,
        gpus=gpus,
        runs_folder=str(folder),
        runs_folder_writable=existing.is_dir() and os.access(existing, os.W_OK),
        disk_free_bytes=shutil.disk_usage(existing).free,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _nvidia() -> tuple[str | None, str | None, tuple[LocalGpu, ...]]:
    """Return the driver's version, the CUDA version it supports, and the GPUs."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None, None, ()
    try:
        number = _answer(pynvml.nvmlSystemGetCudaDriverVersion)
        cuda = f"{number // 1000}.{number % 1000 // 10}" if number else None
        found = map(_gpu, range(_answer(pynvml.nvmlDeviceGetCount) or 0))
        gpus = tuple(gpu for gpu in found if gpu)
        return _answer(pynvml.nvmlSystemGetDriverVersion), cuda, gpus
    finally:
        _answer(pynvml.nvmlShutdown)


def _gpu(index: int) -> LocalGpu | None:
    """Return a GPU, or None where the driver does not let us at it."""
    import pynvml

    handle = _answer(pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return None
    memory = _answer(pynvml.nvmlDeviceGetMemoryInfo, handle)  # GPUs that share the CPU's have none
    return LocalGpu(
        name=_answer(pynvml.nvmlDeviceGetName, handle) or f"GPU {index}",
        memory_bytes=int(memory.total) if memory else None,
        free_bytes=int(memory.free) if memory else None,
    )


def _answer(ask: Callable[..., Any], *about: object) -> Any:
    """Return what the driver answers, None where it cannot: each GPU answers what it supports."""
    import pynvml

    try:
        return ask(*about)
    except pynvml.NVMLError:
        return None
