"""Timing of candidates: disturbed samples do not count, timings survive whatever happens to their file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

from graphopt.backends.cpu.contention import waited_seconds
from graphopt.backends.cpu.frame import image_frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.sparse_candidates import make_sparse
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.measure import BATCH, LEAST_SAMPLES, MOST_ROUNDS, ROUNDS, Timings, typical
from graphopt.backends.timing_cache import TimingCache
from graphopt.ir.types import DType


def test_disturbed_samples_do_not_count() -> None:
    calls = [0, 0]

    def sample(number: int) -> tuple[float, bool]:
        calls[number] += 1
        is_disturbed = number == 0 and calls[number] <= 5
        return (0.1 if is_disturbed else number + calls[number]), not is_disturbed

    assert typical(sample, 2) == [(5 + (1 + ROUNDS) / 2, True), (1 + (1 + ROUNDS) / 2, True)]
    assert calls == [5 + ROUNDS, ROUNDS]


def test_a_fast_moment_does_not_win() -> None:
    """Two candidates, of which the slower one is timed once while the machine is twice as fast."""
    calls = [0, 0]

    def sample(number: int) -> tuple[float, bool]:
        calls[number] += 1
        return (1.0 + 0.1 * number) / (2 if (number, calls[number]) == (1, 4) else 1), True

    assert typical(sample, 2) == [(1.0, True), (1.1, True)]


def test_few_undisturbed_samples_are_not_kept() -> None:
    calls = 0

    def sample(number: int) -> tuple[float, bool]:
        nonlocal calls
        calls += 1
        return float(calls), calls < LEAST_SAMPLES

    assert typical(sample, 1) == [(1.0, False)]


def test_a_machine_that_is_never_quiet_still_has_an_answer() -> None:
    calls = 0

    def sample(number: int) -> tuple[float, bool]:
        nonlocal calls
        calls += 1
        return float(calls), False

    assert typical(sample, 1) == [(1.0, False)]
    assert calls == MOST_ROUNDS


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's scheduler statistics")
def test_waiting_for_a_core_is_seen() -> None:
    """Two processes that want the same core: each waits about half of the time."""
    mask = os.sched_getaffinity(0)
    core = min(mask)
    loop = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        try:
            other.stdout.readline()
            os.sched_setaffinity(0, {core})
            before, start = waited_seconds(), time.perf_counter()
            while time.perf_counter() < start + 0.3:
                pass
            waited = waited_seconds() - before
        finally:
            os.sched_setaffinity(0, mask)
            other.kill()
    assert waited > 0.03


def test_timings_are_kept_together_and_damage_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "timings.json"
    first, second = TimingCache(path), TimingCache(path)
    first.add({"a": 1.0})
    second.add({"b": 2.0}, {"disturbed": 9.0})
    assert [TimingCache(path).get(key) for key in ("a", "b", "disturbed")] == [1.0, 2.0, None]
    assert second.get("disturbed") == 9.0
    second.add({"c": 3.0}, {"a": 9.0})
    assert [TimingCache(path).get(key) for key in ("a", "b", "c")] == [None, 2.0, 3.0], "what was timed beside others must not stay older"
    second.add({"a": 1.0})
    assert TimingCache(path).get("a") == 1.0, "undisturbed this time"
    path.write_text("{")
    assert TimingCache(path).get("a") is None
    path.write_text('["a"]')
    assert TimingCache(path).get("a") is None


def _kernel(outputs: int) -> Kernel:
    x, y = (make_storage("blocked", name, DType.f32, (1, channels, 8, 8)) for name, channels in (("x", 16), ("y", outputs)))
    numbers = numpy.ones((outputs, 16, 1, 1), dtype=numpy.float32)
    return make_sparse(x, y, "w", None, Convolution((1, 1)), image_frame(), numbers)


def test_candidates_of_a_place_are_timed_together() -> None:
    """One that is new is not compared with times of another day."""
    cache = TimingCache(None)
    timings = Timings(cache, "avx2", 1)
    a, b, c, d, e = (_kernel(16 * count) for count in range(1, 6))
    cache.add({timings.key(kernel): 1.0 for kernel in (a, c, d)})
    places = [[a, b], [c], [b, d], [b, a]]
    assert [list(batch.values()) for batch in timings.batches(places)] == [[a, b, d]]
    assert [list(batch.values()) for batch in timings.batches([[c, d], [a, c], [a, e], [e]])] == [[c, d, a, e]], "all that competes"
    cache.add({timings.key(kernel): 2.0 for kernel in (b, e)})
    assert timings.batches(places) == []


def test_places_are_not_torn_apart_by_full_batches() -> None:
    timings = Timings(TimingCache(None), "avx2", 1)
    kernels = [_kernel(16 * count) for count in range(1, BATCH + 2)]
    first, second = kernels[: BATCH - 1], kernels[BATCH - 1 :]
    assert [list(batch.values()) for batch in timings.batches([first, second])] == [first, second]
