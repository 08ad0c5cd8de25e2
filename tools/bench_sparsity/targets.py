"""What was aimed at, and from the records whether it was reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tools.bench_quality.findings import Finding, Target, gap_text, verdict
from tools.bench_quality.records import STAGES
from tools.bench_quality.statistics import Difference
from tools.bench_quality.training import NETWORKS
from tools.bench_sparsity.latency import OURS_DENSE
from tools.bench_sparsity.points import Board, Point, timing_name

__all__ = ["NAMES", "TARGETS"]

NAMES = {"plain": "one-shot", "tuned": "after recovery"}
_OBS = ("ours: obs", "ours: obs, global")
_BLOCK_OR_SINGLE = (*_OBS, "ours: obs, 4x1", "ours: wanda", "ours: magnitude", "ours: magnitude, global", "ours: block 4x1")
_DATA_AWARE = (("ours: obs", "ours: magnitude"), ("ours: wanda", "ours: magnitude"), ("ours: obs, 4x1", "ours: block 4x1"))
_ONE_SHOT_TASKS = ("minilm", "crepe")
_TORCH = (
    ("ours: obs", "torch prune, local"),
    ("ours: obs, global", "torch prune, global"),
    ("ours: obs", "torch prune, local, SGD"),
)
"""Methods that share zeros out among layers alike."""


def _losses(shown: Board, arms: Sequence[str], ratio: float, stage: str) -> list[tuple[Difference, Point]]:
    points = [point for arm in arms if (point := shown.of(arm, ratio)) is not None]
    return [(loss, point) for point in points if (loss := shown.loss(point, stage)) is not None]


def _limit(shown: Board, arms: Sequence[str], ratio: float, stage: str, limit: float) -> Iterator[Finding]:
    found = _losses(shown, arms, ratio, stage)
    if found:
        loss, point = min(found, key=lambda pair: pair[0].points)
        figures = f"{point.arm}: {loss.points:.2f} lost [{loss.lower:.2f}, {loss.upper:.2f}]"
        yield Finding(shown.task.name, f"{ratio:g}, {NAMES[stage]}", figures, "met" if loss.points <= limit + 1e-9 else "missed")


def _recovered(shown: Board) -> Iterator[Finding]:
    if shown.task.name in NETWORKS:
        yield from _limit(shown, _BLOCK_OR_SINGLE, 0.8, "tuned", 1.0)


def _recovered_others(shown: Board) -> Iterator[Finding]:
    if shown.task.name not in NETWORKS:
        yield from _limit(shown, _BLOCK_OR_SINGLE, 0.8, "tuned", 1.0)


def _one_shot(shown: Board) -> Iterator[Finding]:
    if shown.task.name in _ONE_SHOT_TASKS:
        yield from _limit(shown, (*_OBS, "ours: wanda"), 0.5, "plain", 0.5)


def _ratios(shown: Board) -> list[float]:
    return sorted({point.level for point in shown.points})


def _beats_magnitude(shown: Board) -> Iterator[Finding]:
    for arm, other in _DATA_AWARE:
        for ratio in _ratios(shown):
            gap = shown.gap(arm, other, ratio, "plain")
            if gap is not None:
                yield Finding(shown.task.name, f"{ratio:g}, {arm} - {other}", gap_text(gap), verdict(gap))


def _nowhere_worse(shown: Board) -> Iterator[Finding]:
    for stage in STAGES:
        for arm, other in _TORCH:
            for ratio in _ratios(shown):
                gap = shown.gap(arm, other, ratio, stage)
                if gap is not None:
                    case = f"{ratio:g}, {NAMES[stage]}, {arm} - {other}"
                    yield Finding(shown.task.name, case, gap_text(gap), "missed" if verdict(gap) == "missed" else "met")


def _fast(shown: Board) -> Iterator[Finding]:
    """The fastest network that was timed of those that lose at most a point, in whichever stage."""
    fitting: list[tuple[float, Point, str]] = []
    for point in shown.points:
        speed = shown.speed_up(timing_name(point.arm, point.level))
        for stage in STAGES:
            loss = shown.loss(point, stage)
            if speed is not None and loss is not None and loss.points <= 1.0 + 1e-9:
                fitting.append((speed.median, point, stage))
    if shown.latencies is None:
        return
    if not fitting:
        yield Finding(shown.task.name, "at most 1 point lost", "no timed network", "missed")
        return
    _, point, stage = max(fitting, key=lambda entry: entry[0])
    speed, ours = shown.speed_up(timing_name(point.arm, point.level)), shown.speed_up(OURS_DENSE)
    assert speed is not None, "it was timed"
    figures = f"{speed.median:.2f}x ({speed.lower:.2f}–{speed.upper:.2f}) of {shown.latencies.best_peer()}"
    figures += f"; ours, dense: {ours.median:.2f}x" if ours is not None else ""
    case = f"{point.title}, {NAMES[stage]}"
    yield Finding(shown.task.name, case, figures, "met" if speed.median >= 3.0 else "missed")


TARGETS: tuple[Target[Board], ...] = (
    Target(
        "80 % of zeros, single weights or 4x1 blocks, with recovery: at most 1 point lost (best of our methods; networks trained here)",
        _recovered,
    ),
    Target("The same on networks that others trained, beyond the aim", _recovered_others),
    Target(
        "50 % of zeros, one-shot, with calibration data: at most 0.5 points lost on MiniLM and CREPE (best of obs and wanda)", _one_shot
    ),
    Target("One-shot, the methods with calibration data beat magnitude at every ratio", _beats_magnitude),
    Target(
        "Nowhere worse than torch.nn.utils.prune at the same ratio (obs, both local or both global; missed: the interval is below 0)",
        _nowhere_worse,
    ),
    Target("At most 1 point lost and three times as fast as the best dense peer", _fast),
)
