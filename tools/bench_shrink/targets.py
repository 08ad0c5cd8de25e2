"""What was aimed at: not slower than Torch-Pruning at equal quality, and how much faster at half a point lost."""

from __future__ import annotations

from collections.abc import Iterator

from tools.bench_quality.findings import Finding, Target, gap_text, verdict
from tools.bench_quality.records import LONGER, STAGES
from tools.bench_quality.statistics import Difference, difference
from tools.bench_shrink.board import NAMES, Board
from tools.bench_shrink.points import Point, at_least_as_fast, fastest_within

__all__ = ["BEST", "TARGETS", "gap"]

BEST = ("ours: latency budget", "ours: taylor, isomorphic, least squares", "ours: l2, local, least squares")
"""Our methods that are compared with Torch-Pruning."""
_LIMIT = 0.5


def gap(ours: Point, peer: Point, stage: str, score: str) -> Difference | None:
    """Points more right than another, with the seeds that both have; None where one was not run."""
    if stage not in ours.hits or stage not in peer.hits:
        return None
    seeds = min(len(ours.hits[stage][score]), len(peer.hits[stage][score]))
    return difference(ours.hits[stage][score][:seeds], peer.hits[stage][score][:seeds])


def _not_slower(shown: Board) -> Iterator[Finding]:
    """For each point of Torch-Pruning the best of ours that are at least as fast, by target and stage."""
    score = shown.task.scores[0]
    for target in shown.targets:
        for stage in (*STAGES, LONGER):
            for peer in (point for point in shown.points if point.arm.startswith("Torch-Pruning") and target in point.speeds):
                pairs: list[tuple[Difference, Point]] = []
                for arm in BEST:
                    rival = at_least_as_fast([point for point in shown.of(arm) if stage in point.hits], peer, target)
                    found = None if rival is None else gap(rival, peer, stage, score)
                    if rival is not None and found is not None:
                        pairs.append((found, rival))
                if pairs:
                    best, ours = max(pairs, key=lambda pair: pair[0].points)
                    case = f"{NAMES[stage]}, {target}: {peer.arm}, {peer.level:g} ({peer.speeds[target].median:.2f}x)"
                    name = f"{ours.arm.removeprefix('ours: ')}, {ours.level:g} ({ours.speeds[target].median:.2f}x)"
                    yield Finding(shown.task.name, case, f"{name}: {gap_text(best)}", verdict(best))


def _fast(wanted: float, *stages: str) -> Target[Board]:
    def find(shown: Board) -> Iterator[Finding]:
        score = shown.task.scores[0]
        for target in shown.targets:
            for stage in stages:
                timed = [point for point in shown.points if point.arm in BEST and stage in point.hits and target in point.speeds]
                best = fastest_within(timed, shown.hits(score), stage, score, target, _LIMIT)
                if best is not None:
                    loss = best.loss(shown.hits(score), stage, score)
                    assert loss is not None, "the stage was run"
                    figures = f"{best.arm}, {best.level:g}: {best.speeds[target].median:.2f}x at {loss.points:.2f} lost"
                    reached = best.speeds[target].median >= wanted
                    yield Finding(shown.task.name, f"{NAMES[stage]}, {target}", figures, "met" if reached else "missed")
                elif timed:
                    yield Finding(shown.task.name, f"{NAMES[stage]}, {target}", "no network that was timed loses so little", "missed")

    names = " or ".join(NAMES[stage] for stage in stages)
    return Target(f"{wanted:g} times as fast as the dense network at {_LIMIT:g} points lost at most, {names}", find)


TARGETS: tuple[Target[Board], ...] = (
    Target(
        "Not worse than Torch-Pruning at its speed: for each of its networks the best of ours that are as fast; points more right",
        _not_slower,
    ),
    _fast(1.6, "tuned", LONGER),
    _fast(1.3, "plain"),
)
