"""A network without kernels, to test the runtime: rounds of y[i] = x[i - 1] / 2 + x[i + 1] / 2 + w[i] around a ring.

Every round reads what other workers wrote in the round before, so a barrier that leaks shows in the numbers.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy
from numpy.typing import NDArray

from graphopt.backends.cpu.emit import Sources, headers
from graphopt.backends.cpu.library import Library, allocate
from graphopt.backends.cpu.toolchain import build

__all__ = ["RUNTIME", "SIZE", "STEPS", "expected", "runtime_headers", "stencil", "stencil_sources", "weights"]

SIZE = 1000
STEPS = 40
RUNTIME = ("runtime.hpp", "pool.hpp", "cores.hpp", "memory.hpp", "instance.hpp", "variant.hpp", "interface.hpp", "entry.hpp", "network.h")

Floats = NDArray[numpy.float32]


def runtime_headers() -> dict[str, str]:
    """The headers of the runtime, by name."""
    available = headers()
    found: dict[str, str] = {}
    queue = list(RUNTIME)
    while queue:
        name = queue.pop()
        if name not in found:
            found[name] = available[name]
            queue += re.findall(r'#include "([^"]+)"', available[name])
    return found


def stencil_sources(size: int = SIZE, steps: int = STEPS, extra: str = "", body: str = "") -> Sources:
    """The source; `extra` stands before all, `body` in every round after its work."""
    text = f"""{extra}
#include "runtime.hpp"

namespace graphopt {{
namespace network {{

constexpr int step_count = {steps};
constexpr long size = {size};

namespace round {{ void call(const Run& run, const Worker& worker, int number); }}

#if GRAPHOPT_UNIT == 0
void round::call(const Run& run, const Worker& worker, int number) {{
  float* buffers[] = {{at<float>(run.arena, 0), at<float>(run.arena, 4 * size)}};
  const float* x = number == 0 ? at<const float>(run.inputs[0], 0) : buffers[number % 2];
  float* y = number == step_count - 1 ? at<float>(run.outputs[0], 0) : buffers[(number + 1) % 2];
  const float* w = at<const float>(run.weights, 0);
  const Range share = worker.split(size);
  for (long i = share.begin; i < share.end; ++i) y[i] = 0.5f * x[(i + size - 1) % size] + 0.5f * x[(i + 1) % size] + w[i];
  if (x[0] == -12345.0f) worker.fail("the input is -12345");
  {body}
}}
#endif

#if GRAPHOPT_UNIT == 1
void steps(const Run& run, const Worker& worker) {{
  for (int number = 0; number < step_count; ++number) {{
    round::call(run, worker, number);
    worker.done(number);
  }}
}}

constexpr size_t arena_bytes = 2 * 4 * size;
constexpr size_t weights_bytes = 4 * size;
constexpr size_t scratch_floats = 16;
constexpr size_t shared_floats = 0;
constexpr int input_count = 1;
constexpr int output_count = 1;
constexpr int64_t shape[] = {{size}};
constexpr Tensor inputs[] = {{{{"f32", 1, shape, "x"}}}};
constexpr Tensor outputs[] = {{{{"f32", 1, shape, "y"}}}};
#endif

}}  // namespace network
}}  // namespace graphopt

#if GRAPHOPT_UNIT == 1
#include "entry.hpp"
#endif
"""
    return Sources({"network.cpp": text, **runtime_headers()}, units=2)


def weights(size: int = SIZE) -> Floats:
    """w."""
    return numpy.random.default_rng(7).standard_normal(size).astype(numpy.float32)


def expected(x: Floats, steps: int = STEPS) -> Floats:
    """What the network computes, in the same order of roundings."""
    w, half = weights(x.size), numpy.float32(0.5)
    for _ in range(steps):
        left, right = half * numpy.roll(x, 1), half * numpy.roll(x, -1)
        x = numpy.asarray(left + right + w, dtype=numpy.float32)
    return x


@functools.cache
def _path(size: int, steps: int) -> Path:
    return build(stencil_sources(size, steps), warnings=True)


def stencil(threads: int, size: int = SIZE, steps: int = STEPS) -> Library:
    """A new instance."""
    blob = allocate(4 * size)
    blob[:] = weights(size).view(numpy.uint8)
    return Library(_path(size, steps), blob, threads)


def run(library: Library, x: Floats) -> Floats:
    """The output for an input."""
    y = numpy.full_like(x, numpy.nan)
    library.run([x.ctypes.data], [y.ctypes.data])
    return y
