"""Runs of the same method and level, over seeds, as one point: how fast, how many points lost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from tools.bench_cpu.records import Quartiles, quartiles
from tools.bench_shrink.latency import speed_up
from tools.bench_shrink.records import STAGES, Run, Timing, unpack
from tools.bench_shrink.statistics import Difference, difference

__all__ = ["Point", "at_least_as_fast", "fastest_within", "points"]


@dataclass(frozen=True)
class Point:
    """One method at one level. `hits` by stage and score are (seeds, items); stages that were not run are not there.

    `speeds`: the dense network's time over this one's by target, over the rounds of all seeds' networks.
    """

    arm: str
    level: float
    settings: str
    parameters: float
    speeds: Mapping[str, Quartiles]
    milliseconds: Mapping[str, float]
    hits: Mapping[str, Mapping[str, NDArray[numpy.bool_]]]
    failures: tuple[str, ...] = ()

    def loss(self, dense: NDArray[numpy.bool_], stage: str, score: str) -> Difference | None:
        """Points lost against the dense network's hits; None where the stage was not run."""
        found = self.hits.get(stage, {}).get(score)
        return None if found is None else difference(numpy.broadcast_to(dense, found.shape), found)

    def spread(self, stage: str, score: str) -> float:
        """Standard deviation over seeds, in points; 0 with one seed."""
        found = self.hits[stage][score].mean(axis=1)
        return 100.0 * statistics.stdev(found.tolist()) if len(found) > 1 else 0.0


def points(runs: Sequence[Run], timings: Mapping[str, Mapping[str, Timing]], dense_parameters: int) -> list[Point]:
    """The points of a task, in the order of methods as they come, by level."""
    grouped: dict[tuple[str, float], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.key.level, run.key.seed)):
        grouped.setdefault((run.key.arm, run.key.level), []).append(run)
    return [_point(arm, level, found, timings, dense_parameters) for (arm, level), found in grouped.items()]


def _point(arm: str, level: float, runs: Sequence[Run], timings: Mapping[str, Mapping[str, Timing]], dense_parameters: int) -> Point:
    good = [run for run in runs if not run.failure and "plain" in run.hits]
    entries: dict[str, list[Timing]] = {}
    for run in good:
        for target, timing in timings.get(run.architecture, {}).items():
            entries.setdefault(target, []).append(timing)
    speeds: dict[str, Quartiles] = {}
    for target, found in entries.items():
        each = [speed_up(timing) for timing in found]
        middle = quartiles([entry.median for entry in each])
        speeds[target] = Quartiles(min(e.lower for e in each), middle.median, max(e.upper for e in each), min(e.least for e in each))
    hits: dict[str, dict[str, NDArray[numpy.bool_]]] = {}
    for stage in STAGES:
        with_stage: list[Any] = [run for run in good if stage in run.hits]
        if with_stage:
            names = with_stage[0].hits[stage]
            hits[stage] = {name: numpy.stack([unpack(run.hits[stage][name]) for run in with_stage]) for name in names}
    return Point(
        arm,
        level,
        good[0].settings if good else "",
        statistics.mean(run.parameters for run in good) / dense_parameters if good else float("nan"),
        speeds,
        {target: statistics.median(t for timing in found for t in timing.milliseconds) for target, found in entries.items()},
        hits,
        tuple(dict.fromkeys(run.failure for run in runs if run.failure)),
    )


def fastest_within(found: Sequence[Point], dense: NDArray[numpy.bool_], stage: str, score: str, target: str, limit: float) -> Point | None:
    """Of measured points that lose at most `limit` points (mean over seeds), the one with the largest median speed-up."""
    fitting: list[Point] = []
    for point in found:
        loss = point.loss(dense, stage, score)
        if loss is not None and target in point.speeds and loss.points <= limit + 1e-9:
            fitting.append(point)
    return max(fitting, key=lambda point: point.speeds[target].median, default=None)


def at_least_as_fast(found: Sequence[Point], than: Point, target: str) -> Point | None:
    """Of the points that are at least as fast as another, the slowest: what is compared with it."""
    if target not in than.speeds:
        return None
    fitting = [point for point in found if target in point.speeds and point.speeds[target].median >= than.speeds[target].median]
    return min(fitting, key=lambda point: point.speeds[target].median, default=None)
