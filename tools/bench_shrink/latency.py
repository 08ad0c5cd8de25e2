"""Interleaved timing: the dense network and some shrunk ones take turns, so that they see the same machine.

One thread, one process. A round gives each network one turn: an untimed run, then runs back to back; the median of
these is its time in that round. Speed-ups are taken per round, against the dense network's time in the same round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import graphopt
from graphopt.ir.graph import Graph
from tools.bench_cpu.machine import describe
from tools.bench_cpu.records import Quartiles, quartiles
from tools.bench_quality.tasks.base import Task
from tools.bench_quality.turns import take_turns
from tools.bench_shrink.timings import Timing, load_timings, save_timings

__all__ = ["TARGETS", "measure_missing", "speed_up"]

TARGETS = ("onnxruntime", "cpu")
_TOGETHER = 8
"""Networks that take turns with the dense one; more would be too far apart in time."""


def speed_up(timing: Timing) -> Quartiles:
    """The dense network's time over this one's, over the rounds: above 1 it is faster."""
    return quartiles([dense / own for own, dense in zip(timing.milliseconds, timing.dense, strict=True)])


def measure_missing(
    task: Task, dense: str, architectures: Sequence[str], targets: Sequence[str], rounds: int, seconds: float, say: Callable[[str], None]
) -> None:
    """Time the architectures that have no timing yet, in groups with the dense network; written after each group."""
    timings, _ = load_timings(task.root, task.name)
    folder = task.root / "graphs" / task.name
    for target in targets:
        waiting = [name for name in dict.fromkeys(architectures) if target not in timings.get(name, {})]
        for start in range(0, len(waiting), _TOGETHER):
            group = waiting[start : start + _TOGETHER]
            say(f"{task.name}: timing {start + 1} to {start + len(group)} of {len(waiting)} on {target}")
            calls = {name: _call(task, folder / name, target) for name in dict.fromkeys((dense, *group))}
            found = take_turns(calls, rounds, seconds)
            for name in group:
                timings.setdefault(name, {})[target] = Timing(found[name], found[dense])
            save_timings(task.root, task.name, timings, describe())


def _call(task: Task, folder: Path, target: str) -> Callable[[], object]:
    graph = graphopt.load(folder)
    assert isinstance(graph, Graph), "the folder was written by Graph.save"
    executable = graphopt.lower(graph, target=target, threads=1)
    inputs = task.example(task.batch)
    return lambda: executable.run(inputs)
