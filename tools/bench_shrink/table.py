"""The page: what was lost for what speed, in tables; every figure comes from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray

from tools.bench_quality.packages import COMMANDS, NOTE
from tools.bench_quality.records import DENSE, STAGES, Run, load_runs, unpack
from tools.bench_quality.scores import loss_text, p_text
from tools.bench_quality.statistics import difference, mcnemar
from tools.bench_quality.tasks import TASKS
from tools.bench_quality.tasks.base import Task
from tools.bench_shrink.methods import ARMS
from tools.bench_shrink.points import Point, at_least_as_fast, fastest_within, points
from tools.bench_shrink.timings import load_timings

__all__ = ["LIMITS", "Board", "board", "page", "section"]

LIMITS = (0.5, 1.0, 2.0)
"""Points that may be lost, in the summary."""
_NAMES = {"plain": "without training", "tuned": "after fine-tuning"}
_BEST = ("ours: latency budget", "ours: taylor, isomorphic, least squares", "ours: l2, local, least squares")


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


def _speed(point: Point, target: str) -> str:
    found = point.speeds.get(target)
    return (
        "-"
        if found is None
        else f"{found.median:.2f} ({found.lower:.2f}–{found.upper:.2f}), {point.milliseconds[target]:.3f} of {point.dense[target]:.3f} ms"
    )


def section(shown: Board, picture: str | None) -> list[str]:
    """One task: the summary, the comparison with Torch-Pruning, every point."""
    scores = shown.task.scores
    dense = ", ".join(f"{name} {100 * shown.hits(name).mean():.2f} %" for name in scores)
    lines = ["", f"## {shown.task.title}", "", f"Dense: {dense}; {shown.dense.parameters:,} parameters.", ""]
    if picture:
        lines += [f"![Points lost against speed-up]({picture})", ""]
    for target in shown.targets:
        lines += _summary(shown, target)
    for target in shown.targets[:1]:
        lines += _duel(shown, target)
    lines += ["", "Every point:", ""]
    heads = ["method", "level", "seeds", "parameters left", *(f"speed-up, {target}" for target in shown.targets)]
    heads += [f"{name}: lost {_NAMES[stage]}" for name in scores for stage in STAGES]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for point in shown.points:
        if not point.hits:
            lines.append(f"| {point.arm} | {point.level:g} | " + " | ".join(["-"] * (len(heads) - 2)) + " |")
            continue
        seeds = " / ".join(str(len(point.hits[stage][scores[0]])) for stage in STAGES if stage in point.hits)
        cells = [point.arm, f"{point.level:g}", seeds, f"{point.parameters:.3f}", *(_speed(point, target) for target in shown.targets)]
        cells += [loss_text(point, shown.hits(name), stage, name) for name in scores for stage in STAGES]
        lines.append("| " + " | ".join(cells) + " |")
    failures = [f"- {point.arm}, {point.level:g}: {text}" for point in shown.points for text in point.failures]
    return [*lines, *(["", "Failed:", "", *failures] if failures else [])]


def _summary(shown: Board, target: str) -> list[str]:
    score = shown.task.scores[0]
    lines = ["", f"Largest measured speed-up on {target} at so many points of {score} lost at most (mean over seeds):", ""]
    heads = ["method", *(f"≤ {limit:g}, {_NAMES[stage]}" for stage in STAGES for limit in LIMITS)]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for arm in dict.fromkeys(point.arm for point in shown.points):
        cells = [arm]
        for stage in STAGES:
            for limit in LIMITS:
                best = fastest_within(shown.of(arm), shown.hits(score), stage, score, target, limit)
                cells.append("-" if best is None else f"{best.speeds[target].median:.2f} ({best.level:g})")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _duel(shown: Board, target: str) -> list[str]:
    """For each point of Torch-Pruning, points of ours that are at least as fast: how many points more are right."""
    score = shown.task.scores[0]
    lines: list[str] = []
    for peer in (point for point in shown.points if point.arm.startswith("Torch-Pruning") and point.hits):
        for arm in _BEST:
            ours = at_least_as_fast([point for point in shown.of(arm) if point.hits], peer, target)
            if ours is None:
                continue
            cells = [f"{peer.arm}, {peer.level:g}", f"{peer.speeds[target].median:.2f}"]
            cells += [f"{ours.arm.removeprefix('ours: ')}, {ours.level:g}", f"{ours.speeds[target].median:.2f}"]
            for stage in STAGES:
                if stage not in ours.hits or stage not in peer.hits:
                    cells.append("-")
                    continue
                seeds = min(len(ours.hits[stage][score]), len(peer.hits[stage][score]))
                mine, theirs = ours.hits[stage][score][:seeds], peer.hits[stage][score][:seeds]
                gap = difference(mine, theirs)
                exact = mcnemar(mine[0], theirs[0])
                cells.append(f"{gap.points:+.2f} [{gap.lower:+.2f}, {gap.upper:+.2f}], p {p_text(gap.p)} / {p_text(exact)}")
            lines.append("| " + " | ".join(cells) + " |")
    if not lines:
        return []
    text = f"Against Torch-Pruning: the slowest point of ours that is at least as fast on {target}; points of {score} more right."
    heads = ["Torch-Pruning", "speed-up", "ours", "speed-up", *(_NAMES[stage] for stage in STAGES)]
    return ["", text, "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *lines]


def page(boards: Sequence[Board], pictures: Mapping[str, str]) -> str:
    """The whole page as Markdown."""
    lines = ["# Shrink: quality against measured latency", ""]
    lines += ["Written by `python -m tools.bench_shrink` from what it measured; do not edit by hand.", ""]
    lines += [
        "**What runs.** Each network is shrunk by each method at one or several levels, with one or several seeds (calibration data,",
        "order of fine-tuning), scored on test data, fine-tuned for a short while (the same loss, data, steps and rates for all, with",
        "the dense network as teacher; where a task has two rates, the one that is better on validation data), and scored again.",
        "*Level* is the fraction of units removed, for the latency budget the fraction of the time to get down to; *seeds* are those",
        "without training / after fine-tuning. Settings were chosen without test data. Torch-Pruning gets widths in the same multiples,",
        "the layers to leave alone, the heads, and corrections of sizes in Python code; one of its rows also gets batch norms",
        "re-estimated on the calibration data, which it does not do by itself. *Plain magnitude*: local L1 norms through our own cut,",
        "nothing else.",
        "",
        "**Latency.** All modules are captured and go through the same lossless passes, then run on one thread. Networks take turns",
        "with the dense one in one process; a round's speed-up is the dense network's time over the other's in the same round. Shown:",
        "median (lowest quartile–highest quartile over seeds), and the shortest milliseconds of both, of the seed in the middle. The",
        "machine, a virtual one, changes its speed by itself, so milliseconds of different rows may be of different speeds.",
        "",
        "**Loss.** Points of the score lost against the dense network on the same items; ± standard deviation over seeds, [95 %",
        "interval of the paired bootstrap over items]. *p*: paired bootstrap over items with all seeds / exact McNemar test of seed 0.",
        "",
    ]
    lines += [
        "**Weights and data** come in packages; the two small networks are trained by the script. Nothing of it is in this repository.",
        "",
    ]
    lines += [*(f"    {command}" for command in COMMANDS), ""]
    lines += [*NOTE.splitlines(), ""]
    absent = [name for name in TASKS if all(shown.task.name != name for shown in boards)]
    if absent:
        lines += [f"Not run yet: {', '.join(absent)}.", ""]
    for shown in boards[:1]:
        lines += ["Machine and versions:", ""]
        lines += [
            f"- {', '.join(f'{key} {value}' for key, value in sorted({**shown.machine, **shown.dense.versions}.items()))}; one thread"
        ]
    for shown in boards:
        lines += section(shown, pictures.get(shown.task.name))
    lines += ["", "## Settings", ""]
    seen: dict[str, str] = {}
    for shown in boards:
        for point in shown.points:
            if point.settings:
                seen.setdefault(point.arm, f"- {point.arm} (one level, {shown.task.name}): `{point.settings}`")
    return "\n".join([*lines, *seen.values()]) + "\n"
