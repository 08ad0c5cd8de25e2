"""Interleaved timing: networks take turns, so that they see the same machine.

A round gives each one turn: an untimed run, then runs back to back; the median of these is its time in that round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

__all__ = ["take_turns"]


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, tuple[float, ...]]:
    """Milliseconds of each call per round; who is first changes from round to round."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(_turn(calls[name], seconds))
    return {name: tuple(values) for name, values in times.items()}


def _turn(call: Callable[[], object], seconds: float) -> float:
    call()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1e3)
    return round(median(found), 6)
