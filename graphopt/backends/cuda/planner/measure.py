"""Choosing between a library call and an emitted kernel by timing both on the GPU at hand.

Each way is planned by itself on memory of its own, captured as a CUDA graph, and replayed between two events. Ways take
turns, and the shortest time of each counts. Times are kept in the cache under the GPU, the versions of torch and Triton, and
the emitted text; an infinite one says that a way fails there.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import torch

from graphopt.backends.cuda.device import device_name, settings
from graphopt.backends.cuda.emit import emit
from graphopt.backends.cuda.kernels.elementwise import Elementwise
from graphopt.backends.cuda.memory import part
from graphopt.backends.cuda.module import load_module, require_triton
from graphopt.backends.cuda.options import CudaOptions
from graphopt.backends.cuda.plan import Buffer, Plan, Step, finish
from graphopt.backends.cuda.planner.choice import Choice, Way
from graphopt.backends.cuda.storage import Storage
from graphopt.backends.timing_cache import TimingCache, default_timings

__all__ = ["Replay", "alone", "best_of", "canonical_text", "measured_choice", "memory_of", "seconds_of"]

_BUFFER = re.compile(r"\b(?:input|[bst])[0-9]+\b")
ROUNDS = 5
LEAST_SECONDS = 0.002
"""Of a sample: replays are repeated until the clock of the events, half a microsecond, is below a thousandth of it."""


class Replay:
    """A `Choice` that takes the ways that were taken before, by name. `fits` is False once one of them was not on offer."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._position = 0
        self._missed = False

    def __call__(self, ways: Sequence[Way]) -> tuple[int, str]:
        """The way that has the next name."""
        wanted = self._names[self._position] if self._position < len(self._names) else ""
        self._position += 1
        number = next((number for number, way in enumerate(ways) if way.name == wanted), None)
        self._missed |= number is None
        return number or 0, ""

    @property
    def fits(self) -> bool:
        """True when every name was asked for and found."""
        return not self._missed and self._position == len(self._names)


def measured_choice(options: CudaOptions, cache: TimingCache | None = None) -> Choice:
    """The fastest way on this machine's GPU. A way that fails there is out, and not tried again.

    Raises:
        BackendError: Triton is not installed.
    """
    require_triton()
    timings = cache or default_timings("cuda-timings.json")
    device = torch.device(options.device)

    def choose(ways: Sequence[Way]) -> tuple[int, str]:
        plans = [alone(way, options) for way in ways]
        patterns = [way.patterns() for way in ways]
        keys = [_key(plan, options, numbers) for plan, numbers in zip(plans, patterns, strict=True)]
        known = [timings.get(key) for key in keys]
        if any(seconds is None for seconds in known):
            runs = [_runnable(plan, options, device, numbers) for plan, numbers in zip(plans, patterns, strict=True)]
            known = best_of([None if isinstance(run, Exception) else run for run in runs])
            # what fails for want of memory, or together with all others, may run another time
            lasts = any(map(math.isfinite, known))
            kept = [lasts and not isinstance(run, torch.OutOfMemoryError) for run in runs]
            timings.add({key: seconds for key, seconds, is_kept in zip(keys, known, kept, strict=True) if is_kept})
            if not lasts:
                return 0, f"no way could be timed: {_first_line(runs)}"
        seconds = [value if value is not None else math.inf for value in known]
        best = min(range(len(ways)), key=lambda number: seconds[number])
        others = ", ".join(f"{way.name} {_time(seconds[number])}" for number, way in enumerate(ways) if number != best)
        return best, f"measured {_time(seconds[best])}; {others}"

    return choose


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if math.isfinite(seconds) else "fails here"


def _first_line(runs: Sequence[object]) -> str:
    """What the first way that failed said."""
    error = next(run for run in runs if isinstance(run, Exception))
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


def _key(plan: Plan, options: CudaOptions, patterns: Mapping[str, torch.Tensor]) -> str:
    from triton import __version__ as triton_version

    parts = [device_name(), torch.__version__, triton_version, options.dtype, f"autotune {options.measure}", canonical_text(emit(plan))]
    parts += [hashlib.sha256(numbers.contiguous().numpy().tobytes()).hexdigest() for numbers in patterns.values()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def canonical_text(text: str) -> str:
    """Emitted text with buffers named by order of use, so that equal work has equal text wherever it stands in a network."""
    names: dict[str, str] = {}
    return _BUFFER.sub(lambda found: names.setdefault(found.group(), f"buffer{len(names)}"), text)


def alone(way: Way, options: CudaOptions) -> Plan:
    """A plan of one way, on memory of its own."""
    way = _repeatable(way)
    used: dict[str, list[Storage]] = {}
    kinds: dict[str, str] = {}
    for work in way.works:
        for storage in work.reads:
            used.setdefault(storage.buffer, []).append(storage)
            kinds.setdefault(storage.buffer, "state")
        for storage in work.writes:
            used.setdefault(storage.buffer, []).append(storage)
            kinds.setdefault(storage.buffer, "torch" if work.algorithm in ("library", "torch") else "arena")
    buffers: dict[str, Buffer] = {}
    for name, storages in used.items():
        extent = max(storage.extent for storage in storages)
        # the whole buffer, in the layout of its largest view where that is all of it
        whole = next((storage for storage in storages if storage.offset == 0 and storage.is_dense and storage.elements == extent), None)
        buffers[name] = Buffer(kinds[name], whole or Storage(name, storages[0].dtype, (extent,), (1,)))
    return finish("way", options.dtype, (), (way.result,), buffers, [Step(work) for work in way.works])


def _repeatable(way: Way) -> Way:
    """A way whose first step, if it works in place, reads from elsewhere, so that every run has the same numbers."""
    first, *others = way.works
    if not isinstance(first, Elementwise) or first.x.buffer != first.y.buffer:
        return way
    taken = {storage.buffer for work in way.works for storage in (*work.reads, *work.writes)}
    elsewhere = next(name for name in map("input{}".format, count()) if name not in taken)
    return replace(way, works=(replace(first, x=replace(first.x, buffer=elsewhere)), *others))


def _runnable(
    plan: Plan, options: CudaOptions, device: torch.device, patterns: Mapping[str, torch.Tensor]
) -> Callable[[int], float] | Exception:
    """A function that runs a plan some times and gives the seconds of one; what was raised where the plan fails on this machine."""
    try:
        return seconds_of(plan, options, device, patterns)
    except Exception as error:  # noqa: BLE001  # whatever a library or a compiler refuses: this way is out, the others remain
        return error


def seconds_of(
    plan: Plan, options: CudaOptions, device: torch.device, patterns: Mapping[str, torch.Tensor] | None = None
) -> Callable[[int], float]:
    """Compile and warm up a plan; returns a function that gives the seconds of one run, as the mean of some."""
    module: Any = load_module(emit(plan))
    memory = memory_of(plan, device, patterns or {})

    def step() -> object:
        return module.run(memory, None)

    with settings(tf32=options.dtype == "tf32", autotune=options.measure):
        step()
        return _captured(step, device) if device.type == "cuda" else _clocked(step)


def memory_of(plan: Plan, device: torch.device, patterns: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Random numbers in every buffer; the numbers of `patterns`, zero in other integers."""
    arena = torch.zeros(plan.arena_bytes, dtype=torch.uint8, device=device)
    memory: dict[str, torch.Tensor] = {}
    for name, buffer in plan.buffers.items():
        dtype = getattr(torch, buffer.storage.dtype.torch_name)
        if buffer.kind == "arena":
            memory[name] = part(arena, plan.offsets[name], dtype, buffer.storage.extent)
        elif buffer.kind != "torch":
            made = torch.empty_strided(buffer.storage.shape, buffer.storage.strides, dtype=dtype, device=device)
            if name in patterns:
                memory[name] = made.copy_(patterns[name].reshape(made.shape))
            else:
                memory[name] = made.normal_() if dtype.is_floating_point else made.zero_()
    return memory


def _clocked(step: Callable[[], object]) -> Callable[[int], float]:
    def seconds(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - start) / count

    return seconds


def _captured(step: Callable[[], object], device: torch.device) -> Callable[[int], float]:
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()

    def seconds(count: int) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        graph.replay()
        begin.record()
        for _ in range(count):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / count

    return seconds


def best_of(runs: Sequence[Callable[[int], float] | None]) -> list[float]:
    """The shortest time of each, in turns; infinite for what can't run."""
    best = [float("inf")] * len(runs)
    counts = [1] * len(runs)
    for number, run in enumerate(runs):
        if run is not None:
            counts[number] = max(1, int(LEAST_SECONDS / max(run(1), 1e-9)))
    for _ in range(ROUNDS):
        for number, run in enumerate(runs):
            if run is not None:
                best[number] = min(best[number], run(counts[number]))
    return best
