"""What there is of one task: the dense run, the points of every method, where they were timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray

from tools.bench_quality.records import DENSE, LONGER, Run, load_runs, unpack
from tools.bench_quality.tasks.base import Task
from tools.bench_shrink.methods import ARMS
from tools.bench_shrink.points import Point, points
from tools.bench_shrink.timings import load_timings

__all__ = ["NAMES", "Board", "board"]

NAMES = {"plain": "without training", "tuned": "after fine-tuning", LONGER: "after longer fine-tuning"}
"""Stages for people."""


class Board:
    """What there is of one task: dense run, points in the order of the methods, targets that were timed."""

    def __init__(self, task: type[Task], dense: Run, found: Sequence[Point], machine: Mapping[str, str]) -> None:
        self.task = task
        self.dense = dense
        order = {name: place for place, name in enumerate(ARMS)}
        self.points = sorted((point for point in found if point.arm in order), key=lambda point: (order[point.arm], -_rank(point)))
        self.machine = machine
        self.targets = sorted({target for point in found for target in point.speeds}, reverse=True)

    def hits(self, score: str) -> NDArray[numpy.bool_]:
        """The dense network's."""
        return unpack(self.dense.hits["plain"][score])

    def of(self, arm: str) -> list[Point]:
        """The points of a method."""
        return [point for point in self.points if point.arm == arm]


def _rank(point: Point) -> float:
    return point.parameters if point.hits else -1.0


def board(root: Path, task: type[Task]) -> Board | None:
    """The board of a task; None when nothing was run."""
    runs = load_runs(root, task.name)
    dense = next((run for run in runs if run.key.arm == DENSE), None)
    if dense is None or len(runs) < 2:
        return None
    timings, machine = load_timings(root, task.name)
    return Board(task, dense, points([run for run in runs if run.key.arm != DENSE], timings, dense.parameters), machine)
