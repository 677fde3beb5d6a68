"""What the GPU's driver says while steps run: how busy it is, its power, and who else holds it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import fmean
from types import TracebackType
from typing import Any

import psutil
import pynvml

from trainer.results import GpuHolder, GpuUse

SAMPLE_SECONDS = 0.1
"""Between two samples: the driver itself averages utilisation over 1/6 s to 1 s (NVML's
``nvmlUtilization_t``), and power over 25 ms to 1 s."""

_MILLI = 1e-3


class GpuMeter:
    """Samples one GPU's driver in a thread of its own, between entering and leaving.

    Attributes:
        use: What was seen, once left; None where the driver answered nothing at all.
    """

    def __init__(self, uuid: str | None, *, nvml: Any = pynvml) -> None:
        """Make ready to watch a GPU.

        Args:
            uuid: Which GPU, as the driver names it; None (a CPU) is never watched.
            nvml: The driver's functions.
        """
        self.use: GpuUse | None = None
        self._nvml = nvml
        self._uuid = uuid
        self._handle: Any = None
        self._busy: list[float] = []
        self._watts: list[float] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._started = 0.0
        self._energy: float | None = None

    def __enter__(self) -> GpuMeter:
        self._handle = _handle(self._uuid, self._nvml)
        self._started = time.perf_counter()
        if self._handle is not None:
            self._energy = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
            self._done.clear()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is None:
            return
        seconds = time.perf_counter() - self._started
        now = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        self._done.set()
        self._thread.join()
        self._thread = None
        _answer(self._nvml, self._nvml.nvmlShutdown)
        watts = fmean(self._watts) if self._watts else None
        energy = None if watts is None else watts * seconds
        if now is not None and self._energy is not None:
            energy = (now - self._energy) * _MILLI
        if not self._busy and energy is None:
            return
        self.use = GpuUse(
            mean_utilization_percent=fmean(self._busy) if self._busy else None,
            max_utilization_percent=max(self._busy, default=None),
            mean_power_watts=watts,
            energy_joules=energy,
            seconds=seconds,
            num_samples=max(len(self._busy), len(self._watts)),
        )

    def _sample(self) -> None:
        while True:
            rates = self._ask(self._nvml.nvmlDeviceGetUtilizationRates)
            if rates is not None:
                self._busy.append(float(rates.gpu))
            milliwatts = self._ask(self._nvml.nvmlDeviceGetPowerUsage)
            if milliwatts is not None:
                self._watts.append(milliwatts * _MILLI)
            if self._done.wait(SAMPLE_SECONDS):
                return

    def _ask(self, ask: Callable[..., Any]) -> Any:
        return _answer(self._nvml, ask, self._handle)


def gpu_holders(uuid: str | None, own_pids: set[int], *, nvml: Any = pynvml) -> list[GpuHolder]:
    """Return the other processes that compute on a GPU, those that hold most first.

    Args:
        uuid: Which GPU, as the driver names it; None is a CPU, which nobody holds.
        own_pids: Processes to leave out.
        nvml: The driver's functions.
    """
    handle = _handle(uuid, nvml)
    if handle is None:
        return []
    running = _answer(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    _answer(nvml, nvml.nvmlShutdown)
    found = [
        GpuHolder(pid=one.pid, name=_process_name(one.pid), used_bytes=one.usedGpuMemory)
        for one in running
        if one.pid not in own_pids
    ]
    return sorted(found, key=lambda one: one.used_bytes or 0, reverse=True)


def _handle(uuid: str | None, nvml: Any) -> Any:
    """Return the driver's handle of a GPU, None where no driver answers for it."""
    if uuid is None:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return _answer(nvml, nvml.nvmlDeviceGetHandleByUUID, uuid)


def _answer(nvml: Any, ask: Callable[..., Any], *about: Any) -> Any:
    """Return what the driver answers, None where it cannot: each GPU answers what it supports."""
    try:
        return ask(*about)
    except nvml.NVMLError:
        return None


def _process_name(pid: int) -> str:
    """Return a process' name; in a container the driver names processes that cannot be seen."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "not visible from here"
