"""The most multiply-adds per second that cores can do, measured: what "fraction of peak" is a fraction of."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from graphopt.backends.cpu.isa import machine_flags, resolve
from graphopt.backends.cpu.toolchain import find_compiler
from graphopt.errors import BackendError

__all__ = ["peak_flops"]

_BYTES = {"avx512": 64, "avx2": 32}
_SOURCE = """\
// Independent chains of fused multiply-adds in registers, enough of them to hide the latency.
#include <chrono>

typedef float Vec __attribute__((vector_size(WIDTH)));

extern "C" double flops_per_second(double seconds) {
  constexpr int chains = 12;
  constexpr int steps = 4096;
  Vec sums[chains];
  for (int chain = 0; chain < chains; ++chain) sums[chain] = Vec{} + float(chain);
  Vec scale = Vec{} + 0.999999f;
  Vec shift = Vec{} + 1e-6f;
  asm volatile("" : "+x"(scale), "+x"(shift));
  const auto start = std::chrono::steady_clock::now();
  double spent = 0, count = 0;
  while (spent < seconds) {
    for (int step = 0; step < steps; ++step) {
#pragma GCC unroll 12
      for (int chain = 0; chain < chains; ++chain) sums[chain] = sums[chain] * scale + shift;
    }
    count += 2.0 * steps * chains * (WIDTH / sizeof(float));
    spent = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  for (int chain = 0; chain < chains; ++chain) asm volatile("" : : "x"(sums[chain]));
  return count / spent;
}
"""


def peak_flops(isa: str, threads: int, seconds: float = 0.05, repeats: int = 10) -> float:
    """Floating-point operations per second of so many threads at once, with the vectors of an instruction set; the best of a few.

    Raises:
        BackendError: there is no compiler, or this machine lacks the instruction set.
    """
    compiler, isa = find_compiler(), resolve(isa)
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peak.cpp", Path(folder) / "peak.so"
        source.write_text(_SOURCE)
        flags = [
            "-std=c++17",
            "-O2",
            "-ffp-contract=fast",
            "-fPIC",
            "-shared",
            f"-DWIDTH={_BYTES.get(isa, 16)}",
            *machine_flags(isa, zig=compiler.kind == "zig"),
        ]
        done = subprocess.run([*compiler.command, *flags, "-o", str(library), str(source)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise BackendError(f"the loop that measures the peak does not compile: {done.stderr.strip()[:300]}")
        function = ctypes.CDLL(str(library)).flops_per_second
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
        with ThreadPoolExecutor(threads) as pool:
            return max(sum(pool.map(function, [seconds] * threads)) for _ in range(repeats))
