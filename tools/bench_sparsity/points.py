"""What there is of one task: points of quality, and how fast those are that were timed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from tools.bench_cpu.records import Quartiles
from tools.bench_quality.records import DENSE, STAGES, Run, load_runs, slug, unpack
from tools.bench_quality.scores import Scored, by_level, scored
from tools.bench_quality.statistics import Difference, difference
from tools.bench_quality.tasks.base import Task
from tools.bench_sparsity.deploy import INT8
from tools.bench_sparsity.latency import Latencies, load_latencies
from tools.bench_sparsity.methods import ARMS

__all__ = ["Board", "Point", "board", "timing_name"]


@dataclass(frozen=True)
class Point(Scored):
    """One method at one ratio. `zeros`: the part of the weights of the sparse layers that are zero, mean over seeds."""

    zeros: float

    @property
    def title(self) -> str:
        """Method and level."""
        return f"{self.arm}, {ARMS[self.arm].at(self.level)}"


def timing_name(arm: str, ratio: float) -> str:
    """Name of a sparse network in the record of latencies."""
    return f"{slug(arm)}-{ratio:g}"


@dataclass(frozen=True)
class Board:
    """A task's dense run, points in the order of the methods and ratios, int8, latencies."""

    task: type[Task]
    dense: Run
    points: Sequence[Point]
    int8: Scored | None = None
    latencies: Latencies | None = None

    @property
    def score(self) -> str:
        """The score that counts."""
        return self.task.scores[0]

    def hits(self, score: str) -> NDArray[numpy.bool_]:
        """The dense network's."""
        return unpack(self.dense.hits["plain"][score])

    def of(self, arm: str, ratio: float) -> Point | None:
        """A point that has a result."""
        return next((point for point in self.points if (point.arm, point.level) == (arm, ratio) and point.hits), None)

    def loss(self, point: Scored, stage: str) -> Difference | None:
        """Points of the score that counts lost against the dense network."""
        return point.loss(self.hits(self.score), stage, self.score)

    def gap(self, arm: str, other: str, ratio: float, stage: str) -> Difference | None:
        """How many points more of the score that counts the first is right, over the seeds that both have."""
        found = [self.of(name, ratio) for name in (arm, other)]
        hits = [point.hits.get(stage, {}).get(self.score) for point in found if point is not None]
        if len(hits) < 2 or hits[0] is None or hits[1] is None:
            return None
        seeds = min(len(hits[0]), len(hits[1]))
        return difference(hits[0][:seeds], hits[1][:seeds])

    def speed_up(self, name: str) -> Quartiles | None:
        """The best dense peer's time over that of a network; None when it was not timed."""
        peer = None if self.latencies is None else self.latencies.best_peer()
        return None if self.latencies is None or peer is None else self.latencies.speed_up(name, peer)


def board(root: Path, task: type[Task]) -> Board | None:
    """The board of a task; None when nothing was run.

    Raises:
        ValueError: a record is of another format.
    """
    runs = load_runs(root, task.name)
    dense = next((run for run in runs if run.key.arm == DENSE), None)
    if dense is None or len(runs) < 2:
        return None
    order = {name: place for place, name in enumerate(ARMS)}
    points = [_point(found) for found in by_level([run for run in runs if run.key.arm in order])]
    points.sort(key=lambda point: (order[point.arm], point.level))
    int8 = [run for run in runs if run.key.arm == INT8]
    return Board(task, dense, points, Scored(**scored(int8)) if int8 else None, load_latencies(root, task.name))


def _point(runs: Sequence[Run]) -> Point:
    zeros = [found[stage] for run in runs for found in (run.zeros,) for stage in STAGES if stage in found]
    return Point(**scored(runs), zeros=statistics.mean(zeros) if zeros else float("nan"))
