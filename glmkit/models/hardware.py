"""What a device does and reaches here: time, peak memory, a cap on it, and the rates of large products and copies."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from glmkit.runs import cores


@dataclass
class Clock:
    """Seconds of each stage and of the whole; the device is idle whenever a clock is read."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    def now(self) -> float:
        """Wait for the device; returns seconds since some moment."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to those of a stage."""
        started = self.now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - started


@dataclass(frozen=True)
class DeviceRates:
    """Hold a device's rates: `flops` per second of a large product, `bytes` per second read and written by a copy."""

    flops: float
    bytes: float


def device_name(device: torch.device) -> str:
    """Name a GPU, or count the threads and cores of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads on {cores()} cores"


def measure_rates(device: torch.device, dtype: torch.dtype) -> DeviceRates:
    """Measure a large product in `dtype` and a large copy."""
    count = 2**30 if device.type == "cuda" else 2**25
    source = torch.empty(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return DeviceRates(matmul_flops(device, dtype), 2 * count / median_seconds(lambda: target.copy_(source), device))


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations per second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / median_seconds(lambda: matrix @ matrix, device)


def median_seconds(call: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    """Time `repeats` calls after two more; returns the median."""
    clock, times = Clock(device), []
    for number in range(repeats + 2):
        started = clock.now()
        call()
        if number >= 2:
            times.append(clock.now() - started)
    return statistics.median(times)


def reset_peak_memory(device: torch.device) -> None:
    """Free what is free, and count the peak of a GPU's memory from now on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory in use: on a GPU since the last reset, on a CPU by the process so far."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else host_peak_gib()


def host_peak_gib() -> float:
    """Return the most of the host's memory that this process had so far, pages of mapped files included."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):  # ru_maxrss begins with what the parent held
            return int(line.split()[1]) / 2**20
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 2**30
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30


@contextmanager
def memory_cap(device: torch.device, gib: float | None) -> Iterator[None]:
    """Allocate at most `gib` GiB on a GPU, more fails; None: no bound. A CPU has none."""
    if device.type != "cuda" or gib is None:
        yield
        return
    # By index: torch refuses a device without one here.
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, gib * 2**30 / torch.cuda.get_device_properties(index).total_memory), index
    )
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
