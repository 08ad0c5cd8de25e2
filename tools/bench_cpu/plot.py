"""The picture: per model, the time of each peer over ours, with quartiles, and what was to be reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.bench_cpu.arms import OURS, PEERS
from tools.bench_cpu.goals import GOALS
from tools.bench_cpu.records import Session

__all__ = ["draw"]

_COLOURS = {"onnxruntime": "#4c72b0", "openvino": "#55a868", "torch.compile": "#dd8452", "eager": "#b0b0b0"}


def draw(sessions: Sequence[Session], file: Path) -> bool:
    """Write an SVG of the sessions that have a time of ours; False, and no file, when there is none."""
    shown = [session for session in sessions if session.times(OURS) is not None]
    if not shown:
        return False
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "graphopt"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(max(6.0, 0.75 * len(shown) + 2), 4.5))
    width = 0.8 / len(PEERS)
    for index, peer in enumerate(PEERS):
        places: list[float] = []
        heights: list[float] = []
        below: list[float] = []
        above: list[float] = []
        for place, session in enumerate(shown):
            ratio = session.ratio(peer, OURS)
            if ratio is not None:
                places.append(place + (index - (len(PEERS) - 1) / 2) * width)
                heights.append(ratio.median)
                below.append(ratio.median - ratio.lower)
                above.append(ratio.upper - ratio.median)
        axes.bar(places, heights, width, yerr=(below, above), label=peer, color=_COLOURS[peer], error_kw={"elinewidth": 0.8})
    for place, session in enumerate(shown):
        goal = GOALS.get(session.case.model)
        if goal is not None:
            axes.hlines(goal.floor, place - 0.45, place + 0.45, colors="black", linewidth=1.2, label="floor" if place == 0 else "_")
    axes.axhline(1.0, color="black", linewidth=0.6)
    axes.set_xticks(range(len(shown)), [session.case.model for session in shown], rotation=40, ha="right")
    axes.set_ylabel("time of the peer / time of ours")
    case = shown[0].case
    axes.set_title(f"batch {case.batch}, {case.threads} thread{'s' if case.threads > 1 else ''}: above 1 ours is faster")
    axes.legend(ncols=5, fontsize="small")
    figure.tight_layout()
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return True
