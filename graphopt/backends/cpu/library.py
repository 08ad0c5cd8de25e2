"""A compiled network through ctypes: the C interface of `include/network.h`.

    weights = allocate(bytes)                     zeros at a huge page, to be filled
    library = Library(path, weights, threads=2)
    library.run([x.ctypes.data], [y.ctypes.data])

Addresses go in and nothing is checked here: whoever calls knows shapes, types and that memory is contiguous.
ctypes gives up the GIL during a run. Several threads may run one library, one after the other.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from _ctypes import dlclose  # pyright: ignore[reportMissingTypeStubs, reportPrivateUsage]  # the only way to close one
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from graphopt.errors import BackendError, RunInputError

__all__ = ["API_VERSION", "Library", "TensorInfo", "allocate"]

API_VERSION = 1
"""`GRAPHOPT_API_VERSION` of the headers that this binding is for."""

SLACK = 64
"""Readable bytes behind the weights."""

_HUGE_PAGE = 1 << 21
_BAD_INPUT = 5


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("rank", ctypes.c_int),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("bytes", ctypes.c_size_t),
    )


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a compiled network."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


def allocate(size: int) -> NDArray[numpy.uint8]:
    """`size` zero bytes for weights, and 64 readable ones behind them; large ones on huge pages.

    Weights are read once per run, front to back, and often from memory: with pages of 4 KiB the prefetcher
    stops at each.
    """
    if size + SLACK < _HUGE_PAGE:
        small = numpy.zeros(size + SLACK + 64, dtype=numpy.uint8)
        start = -small.ctypes.data % 64
        return small[start : start + size]
    # private: pages of a shared mapping are those of a file in memory, which are small whatever is advised
    mapping = mmap.mmap(-1, size + SLACK + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages = numpy.frombuffer(mapping, dtype=numpy.uint8)
    start = -pages.ctypes.data % _HUGE_PAGE
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them: small pages work too
            mapping.madvise(mmap.MADV_HUGEPAGE, start, (size + SLACK) // mmap.PAGESIZE * mmap.PAGESIZE)
    return pages[start : start + size]


class Library:
    """One instance of a compiled network: its memory and its threads, started at once and asleep between runs.

    `weights` is kept alive. `threads` 0 is one for each core that the process may use.
    """

    def __init__(self, path: Path, weights: NDArray[numpy.uint8] | int, threads: int = 0) -> None:
        """Load and start.

        Raises:
            BackendError: the file is no library of this version, or memory or threads are not to be had.
        """
        handle = _open(path)
        self._weights = weights
        size = handle.graphopt_weights_bytes() if isinstance(weights, int) else weights.nbytes
        address = weights if isinstance(weights, int) else weights.ctypes.data
        instance = handle.graphopt_create_from_memory(address, size, threads)
        if not instance:
            message = _error(handle)
            dlclose(handle._handle)  # pyright: ignore[reportPrivateUsage]
            raise BackendError(f"the compiled network does not start: {message}", where=str(path))
        self.path = path
        self.isa = str((handle.graphopt_isa() or b"").decode())
        self.threads = int(handle.graphopt_threads(instance))
        self.steps = int(handle.graphopt_step_count())
        self.inputs = tuple(_tensor(handle.graphopt_input, index) for index in range(handle.graphopt_input_count()))
        self.outputs = tuple(_tensor(handle.graphopt_output, index) for index in range(handle.graphopt_output_count()))
        self._handle = handle
        self._instance = instance
        self._run = handle.graphopt_run
        self._input_array = ctypes.c_void_p * max(1, len(self.inputs))
        self._output_array = ctypes.c_void_p * max(1, len(self.outputs))
        self._close = weakref.finalize(self, _destroy, handle, instance)

    def run(self, inputs: Sequence[int], outputs: Sequence[int], steps: int = 0) -> list[float]:
        """Run on addresses.

        Raises:
            RunInputError: a step can't work on what an input holds, such as an index that is out of range.
        """
        if steps:
            return self.profile(inputs, outputs)
        if self._run(self._instance, self._input_array(*inputs), self._output_array(*outputs)):
            self._fail()
        return []

    def profile(self, inputs: Sequence[int], outputs: Sequence[int]) -> list[float]:
        """Run on addresses; the seconds that each step took."""
        seconds = (ctypes.c_double * max(1, self.steps))()
        if self._handle.graphopt_run_timed(self._instance, self._input_array(*inputs), self._output_array(*outputs), seconds):
            self._fail()
        return list(seconds)[: self.steps]

    def close(self) -> None:
        """End the threads and free the memory; nothing may run. Happens by itself when nobody holds the library."""
        self._close()

    def _fail(self) -> None:
        raise RunInputError(f"the run failed at {_error(self._handle)}", fix="check the numbers of the inputs")


def _open(path: Path) -> Any:
    try:
        handle: Any = ctypes.CDLL(str(path))
        version = handle.graphopt_api_version()
    except (OSError, AttributeError) as error:
        raise BackendError(
            f"can't load the compiled network: {error}",
            where=str(path),
            fix="set GRAPHOPT_CACHE and TMPDIR to folders that are not mounted noexec",
        ) from None
    if version != API_VERSION:
        raise BackendError(f"the compiled network has interface {version}, needs {API_VERSION}", where=str(path))
    handle.graphopt_isa.restype = ctypes.c_char_p
    handle.graphopt_error.restype = ctypes.c_char_p
    handle.graphopt_weights_bytes.restype = ctypes.c_size_t
    handle.graphopt_create_from_memory.restype = ctypes.c_void_p
    handle.graphopt_create_from_memory.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    handle.graphopt_threads.argtypes = [ctypes.c_void_p]
    handle.graphopt_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    handle.graphopt_run_timed.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    handle.graphopt_destroy.argtypes = [ctypes.c_void_p]
    return handle


def _error(handle: Any) -> str:
    return (handle.graphopt_error() or b"").decode("ascii", "replace")


def _tensor(describe: Any, index: int) -> TensorInfo:
    found = _Tensor()
    if describe(index, ctypes.byref(found)):
        raise BackendError(f"the compiled network does not know its input or output {index}")
    shape = tuple(int(found.shape[axis]) for axis in range(found.rank))
    return TensorInfo((found.name or b"").decode(), found.dtype.decode(), shape, int(found.bytes))


def _destroy(handle: Any, instance: int) -> None:
    handle.graphopt_destroy(instance)
    dlclose(handle._handle)
