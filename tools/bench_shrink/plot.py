"""The picture of a task: points lost against speed-up, without training and after fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.bench_quality.records import STAGES
from tools.bench_shrink.board import Board
from tools.bench_shrink.points import Point

__all__ = ["draw"]

_COLOURS = ("#d62728", "#ff7f0e", "#8c564b", "#7f7f7f", "#1f77b4", "#17becf", "#2ca02c", "#9467bd")
_MOST = 12.0
"""Points lost above this are cut off: there the network is broken."""


def draw(shown: Board, file: Path) -> bool:
    """Write an SVG of the first target; False, and no file, when nothing was timed."""
    if not shown.targets:
        return False
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "graphopt"  # the same figures give the same file
    from matplotlib import pyplot

    target, score = shown.targets[0], shown.task.scores[0]
    figure, both = pyplot.subplots(1, 2, figsize=(12.0, 4.6), sharey=True)
    for axes, stage, title in zip(both, STAGES, ("without training", "after the same short fine-tuning"), strict=True):
        for colour, arm in zip(_COLOURS, dict.fromkeys(point.arm for point in shown.points), strict=False):
            _curve(axes, shown, [point for point in shown.of(arm) if stage in point.hits], stage, score, target, colour, arm)
        axes.axhline(0.0, color="black", linewidth=0.6)
        axes.axhline(0.5, color="black", linewidth=0.6, linestyle=":")
        axes.axvline(1.0, color="black", linewidth=0.6)
        axes.set_xlabel(f"speed-up on {target}, one thread")
        axes.set_title(title)
        axes.set_ylim(_MOST, -1.5)
    both[0].set_ylabel(f"points of {score} lost")
    both[1].legend(fontsize="x-small")
    figure.suptitle(shown.task.title, fontsize="medium")
    figure.tight_layout()
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return True


def _curve(axes: Any, shown: Board, found: list[Point], stage: str, score: str, target: str, colour: str, arm: str) -> None:
    timed = sorted((point for point in found if target in point.speeds), key=lambda point: point.speeds[target].median)
    speeds, losses, below, above = [1.0], [0.0], [0.0], [0.0]
    for point in timed:
        loss = point.loss(shown.hits(score), stage, score)
        assert loss is not None, "the stage was run"
        speeds.append(point.speeds[target].median)
        losses.append(loss.points)
        below.append(loss.points - loss.lower)
        above.append(loss.upper - loss.points)
    style = "--" if arm.startswith("Torch") else "-"
    axes.errorbar(speeds, losses, yerr=(below, above), color=colour, linestyle=style, marker="o", markersize=3, elinewidth=0.7, label=arm)
