"""Choosing kernels by timing them on this machine.

A plan is made twice. The first time every list of candidates is noted; where one has no timing yet, all of its list are
compiled together, each is run alone with cold weights and warm activations, and the median times are kept on disk under
what decides them: the code, the headers, the compiler, the number of cores and the CPU. The second plan takes the
fastest. Timings are of this machine only and never leave the cache.

Only times of the same minutes are compared: machines get slower and faster by themselves, by half and for hours.
"""

from __future__ import annotations

import hashlib
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy

from graphopt.backends.cpu.contention import waited_seconds
from graphopt.backends.cpu.emit import emit_candidates, headers, needed_headers, weight_chunks
from graphopt.backends.cpu.isa import cpu_name, resolve
from graphopt.backends.cpu.kernel import Kernel, ReadState
from graphopt.backends.cpu.library import Library, allocate
from graphopt.backends.cpu.plan import ALIGNMENT, Buffer, Plan, Step, plan_weights
from graphopt.backends.cpu.planner.choice import Alternative, Stage, first_choice
from graphopt.backends.cpu.storage import LANES, Storage
from graphopt.backends.cpu.toolchain import FLAGS, build, find_compiler
from graphopt.backends.timing_cache import TimingCache
from graphopt.ir.types import DType

__all__ = ["Recorder", "Timings", "canonical_text", "typical"]

METHOD = 3
"""Part of the keys: timings that were taken in another way are not compared with these."""
REPEATS = 2
ROUNDS = 9
"""Candidates take turns, and the median of their rounds counts. Not the shortest: where strangers use the same cores (the
hyperthreads of other virtual machines, above all) code runs half again as fast in the moments when they do not, and of
equal candidates the one that meets such a moment would win. Networks run in the state that lasts."""
MOST_WAITING = 0.02
"""Of a sample's time; where threads wait longer for a core, another process had it and the sample does not count."""
MOST_ROUNDS = 24
"""Until every candidate has its undisturbed samples; on a machine that is never quiet, the best of what there is."""
LEAST_SAMPLES = 3
"""Undisturbed ones that are worth keeping."""
BATCH = 48
"""Candidates compiled into one library."""


class _Canonical:
    """Pointers by order of first use, so that equal work has equal text whatever its buffers are called."""

    scratch = "scratch"
    shared = "shared"

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def read(self, storage: Storage) -> str:
        return self._pointer(storage)

    def write(self, storage: Storage) -> str:
        return self._pointer(storage)

    def packed(self, index: int = 0) -> str:
        return f"packed{index}"

    def _pointer(self, storage: Storage) -> str:
        name = self._names.setdefault(storage.buffer, f"buffer{len(self._names)}")
        return f"{name}+{storage.offset}"


def canonical_text(kernel: Kernel) -> str:
    """What decides the time of a kernel besides the machine: its code."""
    code = kernel.emit(_Canonical())
    return f"{kernel.algorithm}\n{code.declarations}\n{code.statements}\n{[(p.dtype, p.shape) for p in kernel.packed]}"


@dataclass(slots=True)
class Recorder:
    """A `Choice` that takes the first of everything and notes, for each place where there is a choice, all candidates."""

    places: list[list[Kernel]] = field(default_factory=list[list[Kernel]])

    def __call__(self, alternatives: Sequence[Alternative]) -> tuple[list[tuple[Kernel, str]], int]:
        """The first of everything."""
        if len(alternatives) > 1 or any(len(stage.candidates) > 1 for stage in alternatives[0]):
            self.places.append([kernel for alternative in alternatives for stage in alternative for kernel in stage.candidates])
        return first_choice(alternatives)


class Timings:
    """Times of candidates on this machine, and the `Choice` that follows from them."""

    def __init__(self, cache: TimingCache, isa: str, threads: int, progress: Callable[[int, int], None] | None = None) -> None:
        self._cache = cache
        self._isa = resolve(isa)
        self._threads = threads
        self._progress = progress
        self._salt = f"{METHOD} {cpu_name()} {self._isa} {threads} {find_compiler().identity} {FLAGS}"
        self._headers = dict(headers().items())

    def key(self, kernel: Kernel) -> str:
        """What the timing of a kernel is kept under."""
        parts = [
            self._salt,
            canonical_text(kernel),
            *(self._headers[name] for name in sorted(needed_headers(kernel.headers, self._headers))),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def measure(self, places: Sequence[Sequence[Kernel]], read: ReadState, weights_bytes: int) -> None:
        """Time the kernels of every place that has one without a timing. A network of `weights_bytes` finds its weights in DRAM
        when they are more than the last cache holds, else in the last cache: that is what is read between two runs."""
        cold_bytes = _cold_bytes(weights_bytes)
        batches = self.batches(places)
        done, total = 0, sum(len(batch) for batch in batches)
        for batch in batches:
            if self._progress is not None:
                self._progress(done, total)
            done += len(batch)
            samples = _time(list(batch.values()), read, self._isa, self._threads, cold_bytes)
            timed = [(key, *sample) for key, sample in zip(batch, samples, strict=True)]
            self._cache.add(
                {key: seconds for key, seconds, is_clean in timed if is_clean},
                {key: seconds for key, seconds, is_clean in timed if not is_clean},
            )

    def batches(self, places: Sequence[Sequence[Kernel]]) -> list[dict[str, Kernel]]:
        """What has to be timed, by key; kernels of one place are in one batch, unless another place had some of them before."""
        keyed = [{self.key(kernel): kernel for kernel in place} for place in places]
        stale = {key for place in keyed for key in place if self._cache.get(key) is None}
        grown = True
        while grown:  # a kernel that is timed anew is so in all of its places, beside all that it competes with there
            more = {key for place in keyed if not stale.isdisjoint(place) for key in place}
            grown = not more <= stale
            stale |= more
        found: list[dict[str, Kernel]] = []
        for place in keyed:
            new = {key: kernel for key, kernel in place.items() if key in stale}
            stale.difference_update(new)
            if new and (not found or len(found[-1]) + len(new) > BATCH):
                found.append({})
            if new:
                found[-1] |= new
        return found

    def __call__(self, alternatives: Sequence[Alternative]) -> tuple[list[tuple[Kernel, str]], int]:
        """The fastest way, with what it is worth against the next best."""
        found = [[self._best(stage) for stage in alternative] for alternative in alternatives]
        totals = [sum(seconds for _, _, seconds in stages) for stages in found]
        number = min(range(len(totals)), key=lambda index: totals[index])
        chosen = [(kernel, reason) for kernel, reason, _ in found[number]]
        if len(alternatives) > 1 and all(total > 0.0 for total in totals):
            others = ", ".join(f"{len(found[index])} steps {1e6 * total:.0f}" for index, total in enumerate(totals) if index != number)
            kernel, reason = chosen[0]
            chosen[0] = kernel, f"{reason or f'measured {1e6 * totals[number]:.0f} us'}; {others} us"
        return chosen, number

    def _best(self, stage: Stage) -> tuple[Kernel, str, float]:
        timed = sorted(
            (seconds, number)
            for number, kernel in enumerate(stage.candidates)
            if (seconds := self._cache.get(self.key(kernel))) is not None
        )
        if not timed:
            return stage.candidates[0], "", 0.0
        best = stage.candidates[timed[0][1]]
        others: dict[str, float] = {}
        for seconds, number in timed[1:]:
            if stage.candidates[number].algorithm != best.algorithm:
                others.setdefault(stage.candidates[number].algorithm, seconds)
        shown = "".join(f", {name} {1e6 * seconds:.0f}" for name, seconds in others.items())
        reason = f"measured {1e6 * timed[0][0]:.0f} us{shown}" if len(stage.candidates) > 1 else ""
        return best, reason, timed[0][0]


def candidate_plan(kernels: Sequence[Kernel], cold_bytes: int) -> Plan:
    """A plan that has each kernel as a step, every buffer at its own place, and cold memory at the arena's end.

    State buffers stay in the weights blob. Inputs and outputs of the network are arena memory here.
    """
    steps = [Step(kernel) for kernel in kernels]
    buffers: dict[str, Buffer] = {}
    for kernel in kernels:
        for storage in (*kernel.reads, *kernel.writes):
            known = buffers.get(storage.buffer)
            if storage.buffer.startswith("state:"):
                whole = replace(storage, offset=0)
                buffers[storage.buffer] = known or Buffer(storage.buffer, "state", whole, state=storage.buffer.removeprefix("state:"))
            elif known is None or _end(storage) > _end(known.storage):
                buffers[storage.buffer] = Buffer(storage.buffer, "arena", replace(storage, halo=(0, 0)) if known is None else storage)
    offsets: dict[str, int] = {}
    place = 0
    for name, buffer in buffers.items():
        if buffer.kind == "arena":
            offsets[name] = place
            place += -(-_end(buffer.storage) * buffer.storage.dtype.bytes // ALIGNMENT) * ALIGNMENT + ALIGNMENT
    weights, weights_bytes = plan_weights(steps, buffers)
    which = Storage("which", DType.i32, (2,), (1,))
    seconds = Storage("seconds", DType.f64, (REPEATS,), (1,))
    return Plan("candidates", (which,), (seconds,), buffers, tuple(steps), offsets, place + cold_bytes + ALIGNMENT, weights, weights_bytes)


def _cold_bytes(weights_bytes: int) -> int:
    def size(level: int) -> int:
        try:
            return os.sysconf(f"SC_LEVEL{level}_CACHE_SIZE")
        except (ValueError, OSError):
            return 0

    last = size(3) or 32 << 20
    return last if weights_bytes > last else 4 * (size(2) or 1 << 20)


def _end(storage: Storage) -> int:
    """Elements from the start of the buffer that the storage may touch, whatever its halo on the far side."""
    return storage.extent + max(storage.offset, 0) + LANES


def _time(kernels: Sequence[Kernel], read: ReadState, isa: str, threads: int, cold_bytes: int) -> list[tuple[float, bool]]:
    plan = candidate_plan(kernels, cold_bytes)
    sources = emit_candidates(plan, cold_bytes, units=threads)
    weights = allocate(plan.weights_bytes)
    for offset, array in weight_chunks(plan, read):
        weights[offset : offset + array.nbytes] = array.reshape(-1).view(numpy.uint8)
    library = Library(build(sources, isa, keep=False), weights, threads)
    seconds = numpy.zeros(REPEATS)

    def sample(number: int) -> tuple[float, bool]:
        """The shortest of a few runs, and whether all threads had their cores meanwhile."""
        which = numpy.array([number, REPEATS], dtype=numpy.int32)
        waited, start = waited_seconds(), time.perf_counter()
        library.run([which.ctypes.data], [seconds.ctypes.data])
        elapsed = time.perf_counter() - start
        return float(seconds.min()), waited_seconds() - waited <= MOST_WAITING * elapsed

    return typical(sample, len(kernels))


def typical(sample: Callable[[int], tuple[float, bool]], count: int) -> list[tuple[float, bool]]:
    """The median undisturbed sample of each of `count` candidates, which take turns; `sample(number)` gives seconds and
    whether it was undisturbed. A candidate that is disturbed most of the time has its shortest sample of all, and False."""
    clean: list[list[float]] = [[] for _ in range(count)]
    shortest = [math.inf] * count
    for _ in range(MOST_ROUNDS):
        open_ = [number for number in range(count) if len(clean[number]) < ROUNDS]
        for number in open_:
            seconds, is_clean = sample(number)
            shortest[number] = min(shortest[number], seconds)
            if is_clean:
                clean[number].append(seconds)
        if not open_:
            break
    return [
        (statistics.median(samples), True) if len(samples) >= LEAST_SAMPLES else (least, False)
        for samples, least in zip(clean, shortest, strict=True)
    ]
