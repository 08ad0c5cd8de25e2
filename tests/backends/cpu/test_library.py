"""The ctypes binding: what it tells, what it refuses, what a call costs."""

from __future__ import annotations

import gc
import mmap
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from numpy.typing import NDArray

from graphopt.backends.cpu.emit import Sources
from graphopt.backends.cpu.library import API_VERSION, Library, TensorInfo, allocate
from graphopt.backends.cpu.toolchain import build
from graphopt.errors import BackendError, RunInputError
from tests.backends.cpu.stencil import SIZE, STEPS, expected, run, stencil, stencil_sources, weights

X = numpy.random.default_rng(11).standard_normal(SIZE).astype(numpy.float32)


def test_a_library_describes_its_network() -> None:
    library = stencil(2)
    assert library.inputs == (TensorInfo("x", "f32", (SIZE,), 4 * SIZE),)
    assert library.outputs == (TensorInfo("y", "f32", (SIZE,), 4 * SIZE),)
    assert (library.threads, library.steps) == (2, STEPS)
    assert library.isa in ("avx512", "avx2", "generic")


def test_memory_needs_no_alignment() -> None:
    x, y = numpy.zeros(SIZE + 1, dtype=numpy.float32)[1:], numpy.zeros(SIZE + 3, dtype=numpy.float32)[3:]
    x[:] = X
    stencil(2).run([x.ctypes.data], [y.ctypes.data])
    assert y.tobytes() == expected(X).tobytes()


def test_a_profile_has_the_time_of_each_step() -> None:
    library = stencil(2, size=200_000, steps=5)
    x = numpy.ones(200_000, dtype=numpy.float32)
    y = numpy.empty_like(x)
    start = time.perf_counter()
    seconds = library.profile([x.ctypes.data], [y.ctypes.data])
    total = time.perf_counter() - start
    assert len(seconds) == 5
    assert all(second > 0 for second in seconds)
    assert sum(seconds) <= total


@pytest.mark.parametrize("threads", [1, 3])
def test_a_kernel_that_fails_is_an_error_that_names_the_step(threads: int) -> None:
    library = stencil(threads)
    bad = X.copy()
    bad[0] = -12345.0
    for _ in range(3):
        with pytest.raises(RunInputError, match=r"the run failed at step 0: the input is -12345"):
            run(library, bad)
        assert run(library, X).tobytes() == expected(X).tobytes(), "the next run is as good as ever"
    y = numpy.empty_like(bad)
    with pytest.raises(RunInputError, match="step 0"):
        library.profile([bad.ctypes.data], [y.ctypes.data])


def test_weights_are_kept_alive() -> None:
    library = stencil(1)
    gc.collect()
    [numpy.ones(4 * SIZE, dtype=numpy.uint8) for _ in range(100)]
    assert run(library, X).tobytes() == expected(X).tobytes()


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (lambda: allocate(4 * SIZE)[:-4], rf"{4 * SIZE - 4} bytes of weights at .*, needs {4 * SIZE} at a multiple of 64"),
        (lambda: allocate(4 * SIZE + 64)[4:][: 4 * SIZE], ".*needs .* at a multiple of 64"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(blob: Callable[[], NDArray[numpy.uint8]], reason: str) -> None:
    with pytest.raises(BackendError, match=f"the compiled network does not start: {reason}"):
        Library(build(stencil_sources(), warnings=True), blob(), 1)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 4000, (1 << 21) - 64, 1 << 21, (1 << 22) + 3])
def test_memory_for_weights_is_aligned_zero_and_has_room_behind(size: int) -> None:
    blob = allocate(size)
    assert (blob.nbytes, blob.dtype) == (size, numpy.uint8)
    assert size == 0 or blob.ctypes.data % 64 == 0
    assert not blob.any()
    behind = numpy.lib.stride_tricks.as_strided(blob, (size + 64,), (1,))
    assert not behind.any()
    blob[:] = 1
    if size >= 1 << 21:
        assert blob.ctypes.data % (1 << 21) == 0
        assert mmap.PAGESIZE <= 1 << 21


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mappings")
def test_large_weights_lie_where_huge_pages_can_be() -> None:
    """Pages of a shared mapping are those of a file in memory, which are small."""
    blob = allocate(1 << 23)
    for line in Path("/proc/self/maps").read_text().splitlines():
        places, access, _, _, inode = line.split()[:5]
        begin, end = (int(place, 16) for place in places.split("-"))
        if begin <= blob.ctypes.data < end:
            assert (access, inode) == ("rw-p", "0")
            return
    pytest.fail("the weights are in no mapping")


def test_a_file_that_is_no_library_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "network.so").write_bytes(b"nonsense")
    for path in (tmp_path / "network.so", tmp_path / "missing.so"):
        with pytest.raises(BackendError, match=r"can't load the compiled network(.|\n)*fix: set GRAPHOPT_CACHE"):
            Library(path, allocate(0), 1)
    with pytest.raises(BackendError, match=r"can't load the compiled network: .*graphopt_api_version"):
        Library(Path("libc.so.6"), allocate(0), 1)


def test_a_library_of_another_interface_is_an_error() -> None:
    sources = stencil_sources()
    header = sources.files["network.h"].replace(f"#define GRAPHOPT_API_VERSION {API_VERSION}", "#define GRAPHOPT_API_VERSION 99")
    path = build(Sources({**sources.files, "network.h": header}, sources.units))
    with pytest.raises(BackendError, match=f"the compiled network has interface 99, needs {API_VERSION}"):
        Library(path, allocate(4 * SIZE), 1)


def test_a_library_outlives_its_file(tmp_path: Path) -> None:
    copy = tmp_path / "copy.so"
    shutil.copy(build(stencil_sources(), warnings=True), copy)
    blob = allocate(4 * SIZE)
    blob[:] = weights().view(numpy.uint8)
    library = Library(copy, blob, 2)
    copy.unlink()
    assert run(library, X).tobytes() == expected(X).tobytes()


def test_instances_free_what_they_take() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    def once() -> None:
        library = stencil(3, size=500_000, steps=2)
        run(library, numpy.zeros(500_000, dtype=numpy.float32))
        library.close()

    for _ in range(3):
        once()
    before = resident()
    for _ in range(20):
        once()
    assert resident() - before < 8 << 20, "one instance has 6 MB"


def test_a_call_costs_little() -> None:
    library = stencil(1, size=1, steps=1)
    x = numpy.zeros(1, dtype=numpy.float32)
    y = numpy.zeros(1, dtype=numpy.float32)
    inputs, outputs = [x.ctypes.data], [y.ctypes.data]
    seconds: list[float] = []
    for _ in range(2000):
        start = time.perf_counter()
        library.run(inputs, outputs)
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 10e-6
