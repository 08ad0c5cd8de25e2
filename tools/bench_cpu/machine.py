"""What the machine is, and how much of it others use meanwhile."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

__all__ = ["Load", "caches", "cpu_seconds", "describe"]

_PACKAGES = ("torch", "onnxruntime", "openvino", "transformers", "torchvision")
_FEATURES = ("avx2", "fma", "avx512f", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


class Load:
    """CPU time that the machine spends from now on, with the processes that are meant to spend it."""

    def __init__(self, expected: Iterable[int]) -> None:
        self._expected = tuple(expected)
        self._start, self._busy, self._known = time.perf_counter(), _busy_seconds(), self._known_seconds()

    def _known_seconds(self) -> float:
        return time.process_time() + sum(cpu_seconds(pid) for pid in self._expected)

    def of_others(self) -> float:
        """Cores that anything else kept busy, on average; the kernel counts in ticks of 10 ms, so short stretches are rough."""
        others = _busy_seconds() - self._busy - (self._known_seconds() - self._known)
        return round(max(0.0, others / (time.perf_counter() - self._start)), 3)


def _busy_seconds() -> float:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, interrupt, soft, steal = (int(value) for value in fields[:8])
    return (user + nice + system + interrupt + soft + steal) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time that all threads of a process have used, in seconds, to the nanosecond of the scheduler's books."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def caches() -> str:
    """Sizes of the caches of core 0: `L1d 32 KiB, L2 1024 KiB, L3 36608 KiB`."""
    found: list[str] = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level}{'d' if kind == 'Data' else ''} {size.removesuffix('K')} KiB")
    return ", ".join(found) or "unknown"


def describe() -> dict[str, str]:
    """CPU, caches, vector extensions, kernel and versions."""
    found = {"cpu": platform.processor() or platform.machine(), "cores": str(os.cpu_count()), "caches": caches()}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                found["cpu"] = value
            if key == "flags":
                found["extensions"] = " ".join(feature for feature in _FEATURES if feature in value.split())
    found |= {"kernel": platform.release(), "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package).partition("+")[0]
    return found
