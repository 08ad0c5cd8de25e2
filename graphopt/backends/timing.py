"""Latency of several variants of one model, measured so that the comparison is fair.

Every round runs every variant once, in turning order, so that a slow moment of the machine hits all of them.
The speed-up is the median over rounds of (first variant / this one), which such moments hardly move.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from graphopt.errors import UsageError

__all__ = ["Latency", "Runnable", "Timing", "environment", "interleave"]

_SHORTEST = 2e-3
"""Seconds that one timing should last at least; faster variants run several times in it."""


class Runnable(Protocol):
    """What is measured: flat inputs in, flat outputs out."""

    def run(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Run once."""
        ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one run of a variant over the rounds: median, quartiles, fastest; `speedup` is against the first."""

    name: str
    median: float
    lower_quartile: float
    upper_quartile: float
    fastest: float
    speedup: float

    @property
    def spread(self) -> float:
        """Distance of the quartiles as a fraction of the median."""
        return (self.upper_quartile - self.lower_quartile) / self.median if self.median else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`; milliseconds."""
        return {
            "name": self.name,
            "median_ms": self.median * 1e3,
            "quartiles_ms": [self.lower_quartile * 1e3, self.upper_quartile * 1e3],
            "fastest_ms": self.fastest * 1e3,
            "speedup": self.speedup,
        }


@dataclass(frozen=True, slots=True)
class Latency:
    """Timings of all variants, and where they were taken."""

    timings: tuple[Timing, ...]
    rounds: int
    environment: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return {"rounds": self.rounds, "environment": dict(self.environment), "variants": [timing.to_json() for timing in self.timings]}

    def __str__(self) -> str:
        width = max(len(timing.name) for timing in self.timings)
        lines = [f"latency, median of {self.rounds} interleaved rounds (quartiles), speed-up against the first:"]
        for timing in self.timings:
            quartiles = f"({timing.lower_quartile * 1e3:.3f} to {timing.upper_quartile * 1e3:.3f})"
            lines.append(f"  {timing.name.ljust(width)}  {timing.median * 1e3:9.3f} ms  {quartiles}  {timing.speedup:5.2f}x")
        lines.append("  " + ", ".join(f"{key} {value}" for key, value in self.environment.items()))
        return "\n".join(lines)


def interleave(functions: Mapping[str, Callable[[], Any]], *, rounds: int = 20, warm_up: int = 3) -> Latency:
    """Measure functions without arguments in interleaved rounds, after `warm_up` untimed calls of each.

    Raises:
        UsageError: no function, or fewer than 3 rounds.
    """
    if not functions or rounds < 3:
        raise UsageError(f"got {len(functions)} variants and {rounds} rounds, needs at least 1 and 3")
    repeats = {name: _repeats(function, warm_up) for name, function in functions.items()}
    names = list(functions)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(_time(functions[name], repeats[name]))
    first = times[names[0]]
    return Latency(tuple(_timing(name, times[name], first) for name in names), rounds, environment())


def environment() -> dict[str, str]:
    """Versions, threads and processor, for the record."""
    found = {"cpu": _cpu_name(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    for package in ("torch", "onnxruntime"):
        module = sys.modules.get(package)
        if module is not None:
            found[package] = str(getattr(module, "__version__", "unknown"))
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch threads"] = str(torch.get_num_threads())
    return found


def _repeats(function: Callable[[], Any], warm_up: int) -> int:
    for _ in range(warm_up):
        function()
    return max(1, math.ceil(_SHORTEST / max(_time(function, 1), 1e-7)))


def _time(function: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def _timing(name: str, times: Sequence[float], first: Sequence[float]) -> Timing:
    lower, median, upper = statistics.quantiles(times, n=4)
    speedup = statistics.median(before / after for before, after in zip(first, times, strict=True))
    return Timing(name, median, lower, upper, min(times), speedup)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
