"""The picture of a task: points lost against zeros, one-shot and after recovery, and against measured speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.bench_quality.records import STAGES
from tools.bench_quality.scores import Scored
from tools.bench_sparsity.deploy import INT8
from tools.bench_sparsity.latency import OURS_DENSE, PEERS
from tools.bench_sparsity.methods import ARMS
from tools.bench_sparsity.points import Board, Point, timing_name
from tools.bench_sparsity.targets import NAMES

__all__ = ["draw"]

_MOST = 10.0
"""Points lost above this are cut off: there the network is broken."""


def draw(shown: Board, file: Path) -> bool:
    """Write an SVG; False, and no file, when there are no points."""
    arms = dict.fromkeys(point.arm for point in shown.points if point.hits)
    if not arms:
        return False
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "graphopt"  # the same figures give the same file
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(15.0, 4.6), sharey=True)
    for axes, stage in zip(panels, STAGES, strict=False):
        for number, arm in enumerate(arm for arm in arms if not ARMS[arm].shrinks):
            points = [point for point in shown.points if point.arm == arm and stage in point.hits]
            _curve(axes, shown, points, stage, mpl.colormaps["tab20"](number), arm)
        axes.set_xlabel("part of the weights that are zero")
        axes.set_title(NAMES[stage])
    _speeds(panels[2], shown)
    for axes in panels:
        axes.axhline(0.0, color="black", linewidth=0.6)
        axes.axhline(1.0, color="black", linewidth=0.6, linestyle=":")
        axes.set_ylim(_MOST, -1.5)
    panels[0].set_ylabel(f"points of {shown.score} lost")
    panels[0].legend(fontsize="x-small")
    figure.suptitle(shown.task.title, fontsize="medium")
    figure.tight_layout()
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return True


def _curve(axes: Any, shown: Board, points: list[Point], stage: str, colour: Any, arm: str) -> None:
    losses = [(point.level, loss) for point in points if (loss := shown.loss(point, stage)) is not None]
    if losses:
        values = [loss.points for _, loss in losses]
        spread = [loss.points - loss.lower for _, loss in losses], [loss.upper - loss.points for _, loss in losses]
        style = "-" if arm.startswith("ours") else "--"
        ratios = [ratio for ratio, _ in losses]
        axes.errorbar(ratios, values, yerr=spread, color=colour, linestyle=style, marker="o", markersize=3, elinewidth=0.7, label=arm)


def _speeds(axes: Any, shown: Board) -> None:
    """The best stage of each network that was timed."""
    axes.set_xlabel("speed-up over the best dense peer")
    axes.set_title("measured")
    marks: list[tuple[str, str, Scored | None]] = [(name, name, None) for name in (*PEERS, OURS_DENSE)]
    marks += [(INT8, INT8, shown.int8)]
    marks += [(point.title, timing_name(point.arm, point.level), point) for point in shown.points]
    for title, name, point in marks:
        speed = shown.speed_up(name)
        found = [] if point is None else [loss.points for stage in STAGES if (loss := shown.loss(point, stage)) is not None]
        if speed is not None and (point is None or found):
            loss = min(found, default=0.0)
            axes.plot([speed.median], [loss], marker="o", markersize=4, color="#d62728" if title.startswith("ours") else "#1f77b4")
            axes.annotate(title, (speed.median, min(loss, _MOST)), fontsize="xx-small", rotation=30)
    axes.axvline(1.0, color="black", linewidth=0.6)
    axes.axvline(3.0, color="black", linewidth=0.6, linestyle=":")
