"""Threads of a compiled network: the same bits for any number of them, side by side, in a forked child, asleep when idle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
import torch

from graphopt.backends.cpu.isa import available_cores
from graphopt.backends.cpu.library import Library
from graphopt.backends.cpu.toolchain import find_compiler
from graphopt.errors import BackendError
from tests.backends.cpu.stencil import SIZE, expected, run, runtime_headers, stencil, stencil_sources

X = numpy.random.default_rng(3).standard_normal(SIZE).astype(numpy.float32)
WANTED = expected(X)


def task_count() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7, 16])
def test_results_do_not_depend_on_threads(threads: int) -> None:
    library = stencil(threads)
    assert library.threads == threads
    for _ in range(20):
        assert run(library, X).tobytes() == WANTED.tobytes()


def test_more_threads_than_elements() -> None:
    x = X[:3].copy()
    assert run(stencil(8, size=3), x).tobytes() == expected(x).tobytes()


def test_zero_threads_is_one_for_each_core() -> None:
    assert stencil(0).threads == available_cores()


def test_affinity_limits_the_default() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert stencil(0).threads == available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_python_threads_may_share_an_instance() -> None:
    library = stencil(2)
    inputs = [X * numpy.float32(scale) for scale in range(1, 9)]
    wanted = [expected(x) for x in inputs]

    def work(index: int) -> bool:
        return all(run(library, inputs[index]).tobytes() == wanted[index].tobytes() for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_instances_run_side_by_side() -> None:
    libraries = [stencil(threads) for threads in (1, 2, 2, 3)]

    def work(library: Library) -> bool:
        return all(run(library, X).tobytes() == WANTED.tobytes() for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, libraries))


def test_the_interpreter_is_free_during_a_run() -> None:
    library = stencil(1, size=100_000, steps=500)
    x = numpy.zeros(100_000, dtype=numpy.float32)
    finished = threading.Event()
    worker = threading.Thread(target=lambda: (run(library, x), finished.set()))
    worker.start()
    counted = 0
    while not finished.is_set():
        counted += 1
        time.sleep(0)
    worker.join()
    assert counted > 100


def test_idle_threads_cost_nothing() -> None:
    libraries = [stencil(4) for _ in range(4)]
    for library in libraries:
        run(library, X)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.02


def test_sleeping_threads_wake_up() -> None:
    library = stencil(3)
    for _ in range(20):
        time.sleep(0.002)
        assert run(library, X).tobytes() == WANTED.tobytes()


def test_threads_end_with_the_instance() -> None:
    before = task_count()
    for _ in range(50):
        library = stencil(4)
        run(library, X)
        library.close()
        library.close()
    assert task_count() == before
    held = stencil(4)
    del held
    assert task_count() == before


def test_a_forked_child_gets_threads_of_its_own() -> None:
    library = stencil(3)
    run(library, X)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            good = all(run(library, X).tobytes() == WANTED.tobytes() for _ in range(20))
            status = 0 if good and task_count() == 3 else 2
            library.close()
        finally:
            os._exit(status)
    assert _exit_code(child) == 0
    assert run(library, X).tobytes() == WANTED.tobytes()


def test_a_child_that_is_forked_during_a_run_can_run() -> None:
    library = stencil(2)
    stop = threading.Event()

    def keep_running() -> None:
        while not stop.is_set():
            run(library, X)

    runner = threading.Thread(target=keep_running)
    runner.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    status = 0 if run(library, X).tobytes() == WANTED.tobytes() else 2
                finally:
                    os._exit(status)
            assert _exit_code(child) == 0
    finally:
        stop.set()
        runner.join()


def _exit_code(child: int) -> int:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


def test_subnormal_numbers_are_kept_whatever_the_caller_does() -> None:
    x = numpy.full(SIZE, 1e-41, dtype=numpy.float32)
    plain = [run(stencil(threads), x).tobytes() for threads in (1, 3)]
    assert torch.set_flush_denormal(True)
    try:
        flushed = [run(stencil(threads), x).tobytes() for threads in (1, 3)]
        assert (torch.tensor(1e-41) * 0.5).item() == 0.0, "the caller's mode is back after a run"
    finally:
        torch.set_flush_denormal(False)
    assert set(plain) == set(flushed) == {plain[0]}


def test_too_many_threads_is_an_error() -> None:
    with pytest.raises(BackendError, match=r"threads is 5000, needs 0 \(one for each core\) to 4096"):
        stencil(5000)


def test_threads_that_the_system_refuses_are_an_error() -> None:
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path.cwd())!r})
from tests.backends.cpu.stencil import stencil
stencil(1)
from graphopt.errors import BackendError
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), resource.RLIM_INFINITY))
try:
    stencil(200)
except BackendError as error:
    print(error.what)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert "the compiled network does not start: can't start 199 threads: " in done.stdout, done.stderr


STRESS = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "network.h"

namespace {
constexpr int SIZE = 1000;
alignas(64) float w[SIZE + 16];
float x[SIZE], wanted[SIZE];
graphopt_network* shared;

void check(graphopt_network* network) {
  float y[SIZE];
  const void* inputs[] = {x};
  void* outputs[] = {y};
  if (graphopt_run(network, inputs, outputs) != GRAPHOPT_OK || memcmp(y, wanted, sizeof y) != 0) {
    fprintf(stderr, "wrong: %s\\n", graphopt_error());
    exit(1);
  }
}

void* caller(void* given) {
  graphopt_network* own = graphopt_create_from_memory(w, 4 * SIZE, 1 + (given != nullptr) * 2);
  for (int i = 0; i < 30; ++i) {
    check(shared);
    check(own);
  }
  graphopt_destroy(own);
  return nullptr;
}
}  // namespace

int main() {
  for (int i = 0; i < SIZE; ++i) x[i] = static_cast<float>(i % 17) - 8.0f;
  graphopt_network* one = graphopt_create_from_memory(w, 4 * SIZE, 1);
  const void* inputs[] = {x};
  void* outputs[] = {wanted};
  graphopt_run(one, inputs, outputs);
  graphopt_destroy(one);
  shared = graphopt_create_from_memory(w, 4 * SIZE, 3);
  pthread_t threads[3];
  for (int i = 0; i < 3; ++i) pthread_create(&threads[i], nullptr, caller, i != 0 ? x : nullptr);
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  graphopt_destroy(shared);
  puts("good");
}
"""


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_sanitizers_find_nothing_in_the_runtime(tmp_path: Path, sanitizer: str) -> None:
    for name, text in {**stencil_sources().files, **runtime_headers(), "stress.cpp": STRESS}.items():
        (tmp_path / name).write_text(text)
    flags = ["-std=c++17", "-O1", "-g", "-pthread", "-w", "-fno-exceptions", "-fno-rtti", f"-fsanitize={sanitizer}"]
    files = ["-DGRAPHOPT_UNIT=1", "network.cpp", "stress.cpp", "-o", "stress"]
    command = [*find_compiler().command, *flags]
    subprocess.run([*command, "-DGRAPHOPT_UNIT=0", "-c", "network.cpp", "-o", "0.o"], cwd=tmp_path, check=True, timeout=120)
    subprocess.run([*command, "0.o", *files], cwd=tmp_path, check=True, timeout=120)
    environment = {**os.environ, "TSAN_OPTIONS": "exitcode=66", "UBSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(["./stress"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel's address space layout is not one that ThreadSanitizer knows")
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr[:4000]
