"""A compiled network through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Library"]


class Library:
    """One instance of a compiled network; `weights` is the address of the blob, which has to stay alive."""

    def __init__(self, path: Path, weights: int, threads: int) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.graphopt_create.restype = ctypes.c_void_p
        self._library.graphopt_create.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self._library.graphopt_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self._library.graphopt_destroy.argtypes = [ctypes.c_void_p]
        self._instance = self._library.graphopt_create(weights, threads)

    def run(self, inputs: Sequence[int], outputs: Sequence[int], steps: int = 0) -> list[float]:
        """Run on addresses; the end time in seconds of the first `steps` steps, where asked."""
        times = (ctypes.c_double * steps)() if steps else None
        self._library.graphopt_run(
            self._instance, (ctypes.c_void_p * max(1, len(inputs)))(*inputs), (ctypes.c_void_p * max(1, len(outputs)))(*outputs), times
        )
        return list(times) if times else []

    def __del__(self) -> None:
        if getattr(self, "_instance", None):
            self._library.graphopt_destroy(self._instance)
            self._instance = None
