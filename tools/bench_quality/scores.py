"""Runs of the same method and level, over seeds, as one: what is right, and how many points are lost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from tools.bench_quality.records import LONGER, STAGES, Run, unpack
from tools.bench_quality.statistics import Difference, difference

__all__ = ["Scored", "by_level", "loss_text", "p_text", "scored"]


@dataclass(frozen=True)
class Scored:
    """One method at one level. `hits` by stage and score are (seeds, items); stages that were not run are not there."""

    arm: str
    level: float
    settings: str
    hits: Mapping[str, Mapping[str, NDArray[numpy.bool_]]]
    failures: tuple[str, ...]

    def loss(self, dense: NDArray[numpy.bool_], stage: str, score: str) -> Difference | None:
        """Points lost against the dense network's hits; None where the stage was not run."""
        found = self.hits.get(stage, {}).get(score)
        return None if found is None else difference(numpy.broadcast_to(dense, found.shape), found)

    def spread(self, stage: str, score: str) -> float:
        """Standard deviation over seeds, in points; 0 with one seed."""
        found = self.hits[stage][score].mean(axis=1)
        return 100.0 * statistics.stdev(found.tolist()) if len(found) > 1 else 0.0


def by_level(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of the same method and level together, by level, each by seed."""
    grouped: dict[tuple[str, float], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.key.level, run.key.seed)):
        grouped.setdefault((run.key.arm, run.key.level), []).append(run)
    return list(grouped.values())


def scored(runs: Sequence[Run]) -> dict[str, Any]:
    """The fields of `Scored` for runs of one method and level; a stage has the seeds for which it was run."""
    good = [run for run in runs if not run.failure and "plain" in run.hits]
    hits: dict[str, dict[str, NDArray[numpy.bool_]]] = {}
    for stage in (*STAGES, LONGER):
        with_stage = [run for run in good if stage in run.hits]
        if with_stage:
            names = with_stage[0].hits[stage]
            hits[stage] = {name: numpy.stack([unpack(run.hits[stage][name]) for run in with_stage]) for name in names}
    return {
        "arm": runs[0].key.arm,
        "level": runs[0].key.level,
        "settings": good[0].settings if good else "",
        "hits": hits,
        "failures": tuple(dict.fromkeys(run.failure for run in runs if run.failure)),
    }


def loss_text(point: Scored, dense: NDArray[numpy.bool_], stage: str, score: str) -> str:
    """`0.42 ±0.05 [0.20, 0.65]`: points lost, deviation over seeds, 95 % interval; `-` where the stage was not run."""
    loss = point.loss(dense, stage, score)
    if loss is None:
        return "-"
    spread = f" ±{point.spread(stage, score):.2f}" if len(point.hits[stage][score]) > 1 else ""
    return f"{loss.points:.2f}{spread} [{loss.lower:.2f}, {loss.upper:.2f}]"


def p_text(value: float) -> str:
    """Three digits, or that it is smaller."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"
