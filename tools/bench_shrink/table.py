"""The page: what was lost for what speed, in tables; every figure comes from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.bench_quality.findings import gap_text, target_lines
from tools.bench_quality.packages import COMMANDS, NOTE
from tools.bench_quality.records import LONGER, STAGES
from tools.bench_quality.scores import loss_text, p_text
from tools.bench_quality.statistics import mcnemar
from tools.bench_quality.tasks import TASKS
from tools.bench_shrink.board import NAMES, Board
from tools.bench_shrink.points import Point, at_least_as_fast, fastest_within
from tools.bench_shrink.runs import LONGER_TIMES
from tools.bench_shrink.targets import BEST, TARGETS, gap

__all__ = ["LIMITS", "page", "section"]

LIMITS = (0.5, 1.0, 2.0)
"""Points that may be lost, in the summary."""


def _speed(point: Point, target: str) -> str:
    found = point.speeds.get(target)
    if found is None:
        return "-"
    some = f"; {point.timed[target]} of {point.seeds} seeds" if point.timed[target] < point.seeds else ""
    speeds = f"{found.median:.2f} ({found.lower:.2f}–{found.upper:.2f})"
    return f"{speeds}, {point.milliseconds[target]:.3f} of {point.dense[target]:.3f} ms{some}"


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
    heads += [f"{name}: lost {NAMES[stage]}" for name in scores for stage in STAGES]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for point in shown.points:
        if not point.hits:
            lines.append(f"| {point.arm} | {point.level:g} | " + " | ".join(["-"] * (len(heads) - 2)) + " |")
            continue
        seeds = " / ".join(str(len(point.hits[stage][scores[0]])) for stage in STAGES if stage in point.hits)
        cells = [point.arm, f"{point.level:g}", seeds, f"{point.parameters:.3f}", *(_speed(point, target) for target in shown.targets)]
        cells += [loss_text(point, shown.hits(name), stage, name) for name in scores for stage in STAGES]
        lines.append("| " + " | ".join(cells) + " |")
    lines += _longer(shown)
    failures = [f"- {point.arm}, {point.level:g}: {text}" for point in shown.points for text in point.failures]
    return [*lines, *(["", "Failed:", "", *failures] if failures else [])]


def _longer(shown: Board) -> list[str]:
    """The points that were fine-tuned for longer, if there are any."""
    found = [point for point in shown.points if LONGER in point.hits]
    if not found:
        return []
    scores = shown.task.scores
    heads = ["method", "level", "seeds", *(f"speed-up, {target}" for target in shown.targets), *(f"{name}: lost" for name in scores)]
    steps = shown.task.schedule.steps
    lines = ["", f"After fine-tuning of {LONGER_TIMES * steps:,} steps, {LONGER_TIMES} times as many:", ""]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for point in found:
        cells = [
            point.arm,
            f"{point.level:g}",
            str(len(point.hits[LONGER][scores[0]])),
            *(_speed(point, target) for target in shown.targets),
        ]
        cells += [loss_text(point, shown.hits(name), LONGER, name) for name in scores]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _summary(shown: Board, target: str) -> list[str]:
    score = shown.task.scores[0]
    lines = ["", f"Largest measured speed-up on {target} at so many points of {score} lost at most (mean over seeds):", ""]
    heads = ["method", *(f"≤ {limit:g}, {NAMES[stage]}" for stage in STAGES for limit in LIMITS)]
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
        for arm in BEST:
            ours = at_least_as_fast([point for point in shown.of(arm) if point.hits], peer, target)
            if ours is None:
                continue
            cells = [f"{peer.arm}, {peer.level:g}", f"{peer.speeds[target].median:.2f}"]
            cells += [f"{ours.arm.removeprefix('ours: ')}, {ours.level:g}", f"{ours.speeds[target].median:.2f}"]
            for stage in STAGES:
                found = gap(ours, peer, stage, score)
                exact = "" if found is None else p_text(mcnemar(ours.hits[stage][score][0], peer.hits[stage][score][0]))
                cells.append("-" if found is None else f"{gap_text(found)} / {exact}")
            lines.append("| " + " | ".join(cells) + " |")
    if not lines:
        return []
    text = f"Against Torch-Pruning: the slowest point of ours that is at least as fast on {target}; points of {score} more right."
    heads = ["Torch-Pruning", "speed-up", "ours", "speed-up", *(NAMES[stage] for stage in STAGES)]
    return ["", text, "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *lines]


def page(boards: Sequence[Board], pictures: Mapping[str, str]) -> str:
    """The whole page as Markdown."""
    lines = ["# Shrink: quality against measured latency", ""]
    lines += ["Written by `python -m tools.bench_shrink` from what it measured; do not edit by hand.", ""]
    lines += [
        "**What runs.** Each network is shrunk by each method at one or several levels, with one or several seeds (calibration data,",
        "order of fine-tuning), scored on test data, fine-tuned for a short while (the same loss, data, steps and rates for all, with",
        "the dense network as teacher; where a task has two rates, the one that is better on validation data), and scored again. Some are",
        f"also fine-tuned for {LONGER_TIMES} times as many steps, from the same start.",
        "*Level* is the fraction of units removed, for the latency budget the fraction of the time to get down to; *seeds* are those",
        "without training / after fine-tuning. Settings were chosen without test data. Torch-Pruning gets widths in the same multiples,",
        "the layers to leave alone, the heads, and corrections of sizes in Python code; one of its rows also gets batch norms",
        "re-estimated on the calibration data, which it does not do by itself. *Plain magnitude*: local L1 norms through our own cut,",
        "nothing else.",
        "",
        "**Latency.** All modules are captured and go through the same lossless passes, then run on one thread. Networks take turns",
        "with the dense one in one process; a round's speed-up is the dense network's time over the other's in the same round. Shown:",
        "median (lowest quartile–highest quartile over seeds), and the shortest milliseconds of both, of the seed in the middle. The",
        "machine, a virtual one, changes its speed by itself, so milliseconds of different rows may be of different speeds. *cpu* is",
        "our own backend. Where not the networks of all seeds were timed, it says of how many.",
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
    lines += ["", "## Targets", ""]
    for target in TARGETS:
        lines += target_lines(target.text, target.findings(boards))
    for shown in boards:
        lines += section(shown, pictures.get(shown.task.name))
    lines += ["", "## Settings", ""]
    seen: dict[str, str] = {}
    for shown in boards:
        for point in shown.points:
            if point.settings:
                seen.setdefault(point.arm, f"- {point.arm} (one level, {shown.task.name}): `{point.settings}`")
    return "\n".join([*lines, *seen.values()]) + "\n"
