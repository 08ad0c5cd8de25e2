"""Instruction sets that networks are compiled for, and what this machine has of them.

| name | means | processors |
|---|---|---|
| `avx512` | x86-64-v4: AVX-512 F, CD, BW, DQ, VL | Intel servers since 2017, AMD since Zen 4 |
| `avx2` | x86-64-v3: AVX2, FMA, BMI | nearly every PC since 2015 |
| `generic` | what the compiler takes for granted | all |

`native` is the first of these that this machine runs. It is never the compiler's `-march=native`: code in the
cache, in an artifact or in an export is told apart by one of three names, not by a model of processor.
"""

from __future__ import annotations

import functools
import os
import platform
from contextlib import suppress
from pathlib import Path

from graphopt.errors import BackendError

__all__ = ["ISAS", "available_cores", "cpu_name", "machine_flags", "resolve", "supported"]

ISAS = ("avx512", "avx2", "generic")
"""Best first."""

_AVX2 = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"})
_NEEDS = {
    "avx512": _AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"},
    "avx2": _AVX2,
    "generic": frozenset[str](),
}
"""Names in /proc/cpuinfo; the kernel leaves out what it does not save when it switches tasks."""


def resolve(isa: str) -> str:
    """The instruction set that is meant: `native` is the best one of this machine.

    Raises:
        BackendError: there is none of that name, or this machine lacks it.
    """
    here = supported()
    if isa == "native":
        return here[0]
    if isa not in ISAS:
        raise BackendError(f"isa is {isa!r}, needs one of native, {', '.join(ISAS)}")
    if isa not in here:
        raise BackendError(f"isa is '{isa}', and this machine ({cpu_name()}) runs {', '.join(here)}", fix="isa='native'")
    return isa


def supported() -> tuple[str, ...]:
    """The instruction sets of this machine, best first."""
    features = _features()
    return tuple(isa for isa in ISAS if _NEEDS[isa] <= features)


def machine_flags(isa: str, *, zig: bool = False) -> tuple[str, ...]:
    """Compiler flags for an instruction set. Zig writes x86_64_v3 where others write x86-64-v3."""
    match isa:
        case "avx512":
            flags = ("-march=x86-64-v4", "-mtune=skylake-avx512", "-mprefer-vector-width=512")
        case "avx2":
            flags = ("-march=x86-64-v3", "-mtune=haswell")
        case "generic":
            flags = ()
        case _:
            raise BackendError(f"isa is {isa!r}, needs one of {', '.join(ISAS)}")
    return tuple(flag.replace("x86-64-v", "x86_64_v").replace("skylake-", "skylake_") for flag in flags) if zig else flags


@functools.cache
def cpu_name() -> str:
    """The processor for people and for what was measured on it, such as "Intel(R) Xeon(R) Platinum 8259CL"."""
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Physical cores that this process may use: the scheduler's mask, two threads of a core counted once, and no
    more than the quota of its control group. The same as `threads` 0 means in the C interface (cores.hpp)."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores = len({_first_sibling(processor) for processor in allowed}) or 1
    quota = _quota()
    return min(cores, quota) if quota else cores


@functools.cache
def _features() -> frozenset[str]:
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return []


def _first_sibling(processor: int) -> int:
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list").read_text()
        return int(text.replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return processor


def _quota() -> int:
    """Whole processors that a control group (version 2) lets us use, at least 1; 0 is no limit."""
    groups = ["/"]
    with suppress(OSError):  # no control groups: no limit
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                group = line[3:]
                groups += [group, *(str(parent) for parent in Path(group).parents)]
    limits: list[int] = []
    for group in groups:
        try:
            quota, period = Path(f"/sys/fs/cgroup{group}/cpu.max").read_text().split()
            limits.append(max(1, int(quota) // int(period)))
        except (OSError, ValueError):  # "max 100000": no limit
            continue
    return min(limits, default=0)
