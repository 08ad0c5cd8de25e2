"""Whether other processes took the cores away while something was timed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["waited_seconds"]

_TASKS = Path("/proc/self/task")


def waited_seconds() -> float:
    """Time so far that threads of this process could run and had no core (s), from Linux's scheduler statistics.

    0.0 where the system does not tell.
    """
    total = 0
    with suppress(OSError):
        for task in _TASKS.iterdir():
            with suppress(OSError, ValueError, IndexError):  # a thread may end meanwhile
                total += int((task / "schedstat").read_text().split()[1])
    return total / 1e9
