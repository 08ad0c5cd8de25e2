"""Runs of the same method and level, over seeds, as one point: how fast, how many points lost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from tools.bench_cpu.records import Quartiles, quartiles
from tools.bench_quality.records import Run
from tools.bench_quality.scores import Scored, by_level, scored
from tools.bench_shrink.latency import speed_up
from tools.bench_shrink.timings import Timing

__all__ = ["Point", "at_least_as_fast", "fastest_within", "points"]


@dataclass(frozen=True)
class Point(Scored):
    """One method at one level, and how fast it is.

    `speeds`: the dense network's time over this one's by target, over the rounds of all seeds' networks. `milliseconds` and `dense`: by
    target, the shortest time of the seed in the middle, and of the dense network in the same rounds. `timed`: seeds whose networks were
    timed, by target, of `seeds`.
    """

    parameters: float
    speeds: Mapping[str, Quartiles]
    milliseconds: Mapping[str, float]
    dense: Mapping[str, float]
    timed: Mapping[str, int]
    seeds: int


def points(runs: Sequence[Run], timings: Mapping[str, Mapping[str, Timing]], dense_parameters: int) -> list[Point]:
    """The points of a task, in the order of methods as they come, by level."""
    return [_point(found, timings, dense_parameters) for found in by_level(runs)]


def _point(runs: Sequence[Run], timings: Mapping[str, Mapping[str, Timing]], dense_parameters: int) -> Point:
    good = [run for run in runs if not run.failure and "plain" in run.hits]
    entries: dict[str, list[Timing]] = {}
    for run in good:
        for target, timing in timings.get(run.architecture, {}).items():
            entries.setdefault(target, []).append(timing)
    speeds: dict[str, Quartiles] = {}
    middles: dict[str, Timing] = {}
    for target, found in entries.items():
        each = [speed_up(timing) for timing in found]
        middle = quartiles([entry.median for entry in each])
        middles[target] = sorted(found, key=lambda timing: speed_up(timing).median)[(len(found) - 1) // 2]
        speeds[target] = Quartiles(min(e.lower for e in each), middle.median, max(e.upper for e in each), min(e.least for e in each))
    return Point(
        **scored(runs),
        parameters=statistics.mean(run.parameters for run in good) / dense_parameters if good else float("nan"),
        speeds=speeds,
        milliseconds={target: min(timing.milliseconds) for target, timing in middles.items()},
        dense={target: min(timing.dense) for target, timing in middles.items()},
        timed={target: len(found) for target, found in entries.items()},
        seeds=len(good),
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
