"""The machine: what it is, how long a call takes on it, and how much memory at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

GIB = 2**30


@dataclass(frozen=True)
class Measured:
    """One call."""

    seconds: float
    """Of the clock on a GPU; of the processor, all threads together, on a CPU, where other processes would
    otherwise count."""
    wall: float
    """Of the clock."""
    peak: int | None
    """Bytes held at the peak beyond those held before; None where the system does not tell."""


class Meter:
    """Measures calls on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._backend = None if device.type == "cpu" else getattr(torch, device.type)

    def measure(self, call: Callable[[], object]) -> Measured:
        """Time and peak memory of a call; its result is dropped."""
        before = self._begin()
        clock, processor = time.perf_counter(), time.process_time()
        result = call()
        if self._backend is not None:
            self._backend.synchronize()
        wall, processor = time.perf_counter() - clock, time.process_time() - processor
        peak = self._peak(before)
        del result
        return Measured(processor if self._backend is None else wall, wall, peak)

    def free(self) -> int:
        """Bytes that are free on the device."""
        if self._backend is None:
            import psutil

            return psutil.virtual_memory().available
        if hasattr(self._backend, "mem_get_info"):
            cached = self._backend.memory_reserved() - self._backend.memory_allocated()
            return self._backend.mem_get_info()[0] + cached
        return 2**62  # the device does not say; too much shows as an error, which the row names

    def _begin(self) -> int | None:
        if self._backend is not None:
            self._backend.synchronize()
            if hasattr(self._backend, "reset_peak_memory_stats"):
                self._backend.reset_peak_memory_stats()
                return self._backend.memory_allocated()
            return None
        with contextlib.suppress(OSError, AttributeError):  # only glibc can
            ctypes.CDLL(None).malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the record of the peak begins anew
        except OSError:
            return None
        return _resident("VmRSS")

    def _peak(self, before: int | None) -> int | None:
        if before is None:
            return None
        if self._backend is not None:
            return self._backend.max_memory_allocated() - before
        return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    """A figure of this process in Linux, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def gib(size: int | None) -> float | None:
    """Bytes as a figure of a row."""
    return None if size is None else size / GIB


def describe(device: torch.device, root: Path) -> dict[str, str | int | float | None]:
    """What a reader must know of the machine. No names of hosts, people or folders."""
    import psutil

    found = {
        "device": device.type,
        "GPU": None,
        "GPU memory, GiB": None,
        "CUDA": torch.version.cuda if device.type == "cuda" else None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory, GiB": round(psutil.virtual_memory().total / GIB),
        "system": platform.system(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": _version("diffusers"),
        "ComfyUI": _comfyui_version(),
        "commit": _commit(root),
    }
    if device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(device)
        found["GPU memory, GiB"] = round(torch.cuda.get_device_properties(device).total_memory / GIB)
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _comfyui_version() -> str | None:
    try:
        from comfyui_version import __version__
    except ImportError:
        return None
    return __version__


def _commit(root: Path) -> str | None:
    """Of the repository, or as the carried folder was told."""
    told = root / "COMMIT"
    if told.is_file():
        return told.read_text(encoding="utf-8").strip()
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
