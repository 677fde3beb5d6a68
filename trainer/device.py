"""The device a probe runs on: which one, how much of it, and what it says when it runs short."""

from __future__ import annotations

import contextlib
import ctypes
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pynvml
import torch

from estimator.estimate import Phase
from estimator.gpus import GIB
from estimator.problems import InputError, Problem
from trainer.results import Device, OutOfMemory

_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_MAPPED_FROM_BYTES = 2**16  # a block as large as this has pages of its own
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIGNS = ("DefaultCPUAllocator", "can't allocate memory", "out of memory")
_NO_PRIMITIVE = "could not create a primitive"
"""What oneDNN says on a CPU when it gets no buffer; also where it has no kernel for a shape."""

_NEARLY_ALL = 0.95
_REQUESTED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)")


def choose_device(wanted: Device) -> torch.device:
    """Return the device to run on; ``auto`` is the first CUDA GPU, else the CPU.

    Raises:
        InputError: CUDA is asked for and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        what = "cuda, but PyTorch finds no CUDA GPU on this machine"
        fix = "run `tuneplan doctor`, or use --device cpu"
        raise InputError(Problem("--device", what, "auto, cpu", fix))
    return torch.device("cuda", 0)


def lock_name(device: torch.device) -> str:
    """Return a device's name, the same in every process: ``cpu``, or the GPU's own identity."""
    if device.type == "cpu":
        return "cpu"
    return f"gpu-{torch.cuda.get_device_properties(device).uuid}"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much memory there is, and how much of it was taken before the probe began.

    ``is_asked`` says whether a person named the bound.
    """

    device: torch.device
    capacity_bytes: int
    used_before_bytes: int | None
    is_asked: bool = False

    def context_bytes(self) -> int | None:
        """Return what the process takes of the GPU outside the allocator, None if unknown.

        The difference of the driver's own readings, so another process that grows meanwhile
        would be counted in.
        """
        used = driver_used_bytes(self.device)
        if used is None or self.used_before_bytes is None:
            return None
        reserved = torch.cuda.memory_reserved(self.device)
        return max(0, used - self.used_before_bytes - reserved)

    def shortage(self, error: Exception, phase: Phase) -> OutOfMemory | None:
        """Return what an out-of-memory error says, None if the error is another one."""
        message = str(error) or "out of memory"
        is_shortage = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        is_shortage = is_shortage or any(sign in message for sign in _SIGNS)
        if not is_shortage and not (_NO_PRIMITIVE in message and self._is_tight()):
            return None
        match = _REQUESTED.search(message)
        allocated = None
        if self.device.type == "cuda":
            allocated = torch.cuda.memory_allocated(self.device)
        return OutOfMemory(
            phase=phase,
            requested_bytes=round(float(match[1]) * _UNITS[match[2]]) if match else None,
            allocated_bytes=allocated,
            capacity_bytes=self.capacity_bytes,
            message=message.splitlines()[0],
        )

    def _is_tight(self) -> bool:
        """Whether a CPU's memory is bounded by hand, or as good as used up."""
        if self.device.type != "cpu":
            return False
        bound, _ = resource.getrlimit(resource.RLIMIT_DATA)
        is_bounded = bound != resource.RLIM_INFINITY
        return self.is_asked or (is_bounded and _data_bytes() > _NEARLY_ALL * bound)


@contextlib.contextmanager
def limited_memory(
    device: torch.device, limit_gib: float | None, used_before_bytes: int | None
) -> Iterator[Limits]:
    """Let the process take no more than ``limit_gib`` of the device, or than is free.

    On CUDA the bound is the caching allocator's: the context comes on top. On a CPU it is on top
    of what the process already holds; without a limit it is what the machine has left, so that
    the worker is told no before the system kills it.

    Args:
        device: CUDA or CPU.
        limit_gib: The bound, or None for what the device has.
        used_before_bytes: :func:`driver_used_bytes` before CUDA was first touched.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        capacity = free if limit_gib is None else min(free, round(limit_gib * GIB))
        torch.cuda.set_per_process_memory_fraction(capacity / total, device)
        yield Limits(device, capacity, used_before_bytes, limit_gib is not None)
        return
    torch.randn(256, 256).mm(torch.randn(256, 256))  # its threads must exist before the limit does
    available = psutil.virtual_memory().available
    capacity = available if limit_gib is None else min(available, round(limit_gib * GIB))
    if limit_gib is not None:
        _return_what_is_freed()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    held = _data_bytes()
    resource.setrlimit(resource.RLIMIT_DATA, (held + capacity, before[1]))
    try:
        yield Limits(device, capacity, None, limit_gib is not None)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _return_what_is_freed() -> None:
    """Let glibc's malloc give tensors back to the system as they are freed.

    Left alone it learns from freed blocks of up to 32 MiB to keep such blocks (``M_MMAP_THRESHOLD``
    in mallopt(3)); the holes between them then count towards the limit, half as much again as the
    tensors. Other C libraries have no such call, and keep their ways.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)


def _data_bytes() -> int:
    """Private writable memory of this process, which is what RLIMIT_DATA bounds."""
    return psutil.Process().memory_info().data


def driver_used_bytes(device: torch.device) -> int | None:
    """Return what all processes use of a GPU, None on a CPU or where the driver is silent."""
    if device.type == "cpu":
        return None
    try:
        return torch.cuda.device_memory_used(device)
    except (pynvml.NVMLError, RuntimeError, ModuleNotFoundError):
        return None


def gpu_uuid(device: torch.device) -> str | None:
    """Return what the driver calls a GPU, whose index may be another there; None on a CPU."""
    if device.type == "cpu":
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
