"""Interleaved timing of the dense network in three runtimes, of int8, and of the sparse networks in our CPU backend.

Each runs in a process of its own and one at a time is awake (`tools.bench_cpu.pool`). A round gives every one a turn: an untimed
run, then runs back to back, of which the median counts. Speeds are compared round by round. One JSON file per task:

latency/resnet.json
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from tools.bench_cpu.machine import Load, describe
from tools.bench_cpu.pool import Worker, WorkerError
from tools.bench_cpu.records import Quartiles, quartiles
from tools.bench_quality.records import read_document, write_document
from tools.bench_sparsity.deploy import INT8, folder_for

__all__ = ["OURS_DENSE", "PEERS", "Contender", "Latencies", "contenders", "load_latencies", "measure"]

OURS_DENSE = "ours, dense"
PEERS = ("ONNX Runtime", "OpenVINO")
"""Dense float32 networks elsewhere."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A network in a runtime: its name on the page, the arm of `tools.bench_cpu.arms`, and its files."""

    name: str
    arm: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds per round by name, all of the same rounds; `failures` says why one is missing.

    `others`: cores that processes outside of the benchmark kept busy in each round, on average.
    """

    threads: int
    batch: int
    times: Mapping[str, tuple[float, ...]]
    others: tuple[float, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    machine: Mapping[str, str] = field(default_factory=dict[str, str])

    def best_peer(self) -> str | None:
        """The dense peer with the least median; None when none ran."""
        found = [name for name in PEERS if name in self.times]
        return min(found, key=lambda name: median(self.times[name]), default=None)

    def speed_up(self, name: str, than: str) -> Quartiles | None:
        """The time of `than` over that of `name`, over the rounds; None when one of them did not run."""
        if name not in self.times or than not in self.times:
            return None
        return quartiles([slow / fast for slow, fast in zip(self.times[than], self.times[name], strict=True)])


def contenders(root: Path, task: str, sparse: Sequence[str]) -> list[Contender]:
    """The dense networks, int8 where there is one, and the sparse networks of these names that were kept."""
    dense = folder_for(root, task, "dense")
    found = [Contender(OURS_DENSE, "ours", dense), *(Contender(name, name.replace(" ", "").lower(), dense) for name in PEERS)]
    int8 = folder_for(root, task, "int8")
    if any(int8.glob("int8-*.onnx")):
        found.append(Contender(INT8, "onnxruntime-int8", int8))
    kept = [(name, folder_for(root, task, name)) for name in sparse]
    return found + [Contender(name, "ours", folder) for name, folder in kept if (folder / "graph").exists()]


def measure(
    root: Path, task: str, batch: int, threads: int, who: Sequence[Contender], rounds: int, seconds: float, say: Callable[[str], None]
) -> Latencies:
    """Time all of them in the same rounds and write the record; what was timed before with the same ones is not timed again."""
    before = load_latencies(root, task)
    if before is not None and {*before.times, *before.failures} >= {each.name for each in who}:
        return before
    cores = sorted(os.sched_getaffinity(0))[:threads]
    times: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    others: list[float] = []
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for each in who:
            say(f"{task}: loading {each.name}")
            try:
                workers[each.name] = stack.enter_context(Worker(each.arm, each.name, each.folder, threads, cores))
                times[each.name] = []
            except WorkerError as error:
                failures[each.name] = str(error)
        for number in range(rounds):
            load, turns = Load([worker.pid for worker in workers.values()]), _round(workers, number, seconds)
            for name, outcome in turns.items():
                if isinstance(outcome, WorkerError):
                    failures[name] = str(outcome)
                    del workers[name], times[name]
                else:
                    times[name].append(outcome)
            others.append(load.of_others())
    found = Latencies(threads, batch, {name: tuple(each) for name, each in times.items()}, tuple(others), failures, describe())
    write_document(_file(root, task), asdict(found))
    return found


def _round(workers: Mapping[str, Worker], number: int, seconds: float) -> dict[str, float | WorkerError]:
    """One turn of each, in turning order: milliseconds, or why it died."""
    names, found = list(workers), dict[str, float | WorkerError]()
    shift = number % max(len(names), 1)
    for name in names[shift:] + names[:shift]:
        try:
            found[name] = round(median(workers[name].turn(seconds)), 6)
        except WorkerError as error:
            found[name] = error
    return found


def load_latencies(root: Path, task: str) -> Latencies | None:
    """The record of a task; None when nothing was timed.

    Raises:
        ValueError: the file is of another format.
    """
    file = _file(root, task)
    if not file.exists():
        return None
    found = read_document(file)
    found |= {"times": {name: tuple(each) for name, each in found["times"].items()}, "others": tuple(found["others"])}
    return Latencies(**found)


def _file(root: Path, task: str) -> Path:
    return root / "latency" / f"{task}.json"
