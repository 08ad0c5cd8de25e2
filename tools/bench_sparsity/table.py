"""The page: targets, and per task what was lost at which ratio and latency; every figure comes from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.bench_cpu.records import quartiles
from tools.bench_quality.findings import target_lines
from tools.bench_quality.packages import COMMANDS, NOTE
from tools.bench_quality.records import STAGES
from tools.bench_quality.scores import Scored, loss_text
from tools.bench_quality.tasks import TASKS
from tools.bench_sparsity.deploy import INT8
from tools.bench_sparsity.latency import OURS_DENSE, PEERS, Latencies
from tools.bench_sparsity.methods import ARMS
from tools.bench_sparsity.points import Board, timing_name
from tools.bench_sparsity.targets import NAMES, TARGETS

__all__ = ["page", "section"]

_INTRODUCTION = """\
**What runs.** In each network the same layers become sparse with every method: those that our passes take by default, all linear
layers and convolutions but the first, the last and depthwise ones. *Ratio* is the part of their weights that are zero: in each
layer the same, but with methods called global, ERK and by sensitivity, over all of them together. Networks are scored on test data
as they come out of the method (one-shot), trained for a short while, and scored again. Ours are trained by
`graphopt.train.recover`, the others by torch's AdamW on the weights that their masks let through, or by SGD with momentum at ten
times the rate where their name says so; all get the same batches in the same order, the same number of steps, the same loss with
the dense network as teacher, and the same highest rates: where a task has two, the one that is better on validation data. `recover`
estimates batch norms again at the end, as it does by default; those of EfficientNet-Lite0 are frozen for all methods. Seeds change
the calibration data and the batches; methods without data give one network one-shot.

*Shrunk* networks are for use, not for comparing methods: they first get smaller until so much of the dense network's time in our
CPU backend remains (channels, neurons, heads; which ones is measured, with a batch of calibration data on one thread, so that the
speed below is another), some become sparse then, and all are trained five times as long.

**Loss.** Points of the score lost against the dense network on the same items; ± standard deviation over seeds, [95 % interval of
the paired bootstrap over items].

**Latency.** Each network runs in a process of its own; they take turns, one at a time awake, all others stopped. The dense network
runs in our CPU backend, in ONNX Runtime and in OpenVINO (float32; of two exports the faster one), int8 in ONNX Runtime: static QDQ
calibrated on the task's calibration data for convolutions, dynamic for MiniLM, scored like the others. Speed-up is the time of the
best dense peer over the network's in the same round: median (quartiles). One method per pattern was timed, and of shrunk networks
that of seed 0.
"""


def page(boards: Sequence[Board], pictures: Mapping[str, str]) -> str:
    """The whole page as Markdown."""
    lines = ["# Sparsity: quality against zeros and measured latency", ""]
    lines += ["Written by `python -m tools.bench_sparsity` from what it measured; do not edit by hand.", "", _INTRODUCTION]
    lines += [
        "**Weights and data** come in packages, nothing of it is in this repository:",
        "",
        *(f"    {line}" for line in COMMANDS),
        "",
        NOTE,
    ]
    lines += _machine(boards)
    lines += ["## Targets", ""]
    absent = [name for name in TASKS if all(shown.task.name != name for shown in boards)]
    if absent:
        lines += [f"Not run yet: {', '.join(absent)}. How many seeds there are of the others stands with them below.", ""]
    for target in TARGETS:
        lines += target_lines(target.text, target.findings(boards))
    for shown in boards:
        lines += section(shown, pictures.get(shown.task.name))
    lines += ["", "## Settings", ""]
    settings = {point.arm: point.settings for shown in boards for point in shown.points if point.settings}
    lines += [f"- {arm}: `{settings[arm]}`" if arm in settings else f"- {arm}: not run" for arm in ARMS]
    return "\n".join(lines) + "\n"


def _machine(boards: Sequence[Board]) -> list[str]:
    """Of all tasks together: not every one of them was timed."""
    found: dict[str, str] = {}
    for shown in boards:
        found |= {**(shown.latencies.machine if shown.latencies is not None else {}), **shown.dense.versions}
    return ["Machine and versions:", "", f"- {', '.join(f'{key} {value}' for key, value in sorted(found.items()))}", ""] if found else []


def section(shown: Board, picture: str | None) -> list[str]:
    """One task: dense, what was run, every point, latencies."""
    scores = shown.task.scores
    dense = ", ".join(f"{name} {100 * shown.hits(name).mean():.2f} %" for name in scores)
    lines = ["", f"## {shown.task.title}", "", f"Dense: {dense}. {' '.join(shown.dense.notes)}.", ""]
    lines += [_extent(shown), ""]
    if picture:
        lines += [f"![Points lost against zeros, and against speed]({picture})", ""]
    heads = ["method", "ratio", "zeros", *(f"{name}: lost {NAMES[stage]}" for name in scores for stage in STAGES)]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for point in shown.points:
        if point.hits:
            cells = [point.arm, ARMS[point.arm].at(point.level), f"{point.zeros:.3f}", *_losses(shown, point)]
            lines.append("| " + " | ".join(cells) + " |")
    absent = [arm for arm in ARMS if all(point.arm != arm for point in shown.points)]
    lines += [f"| {arm} | not run |" + " - |" * (len(heads) - 2) for arm in absent]
    if shown.latencies is not None:
        lines += _latencies(shown, shown.latencies)
    failures = [f"- {point.title}: {text}" for point in shown.points for text in point.failures]
    failures += [f"- {INT8}: {text}" for text in (shown.int8.failures if shown.int8 is not None else ())]
    return [*lines, *(["", "Failed:", "", *failures] if failures else [])]


def _extent(shown: Board) -> str:
    seeds = {stage: {len(point.hits[stage][shown.score]) for point in shown.points if stage in point.hits} for stage in STAGES}
    parts = [f"{NAMES[stage]}: {_count(found)}" for stage, found in seeds.items() if found]
    steps = f"; recovery of {shown.task.schedule.steps} steps" if seeds["tuned"] else ""
    return f"Run here: {', '.join(parts)}{steps}."


def _count(seeds: set[int]) -> str:
    least, most = min(seeds), max(seeds)
    return f"{most} seed{'s' if most > 1 else ''}" if least == most else f"{least} to {most} seeds"


def _losses(shown: Board, point: Scored) -> list[str]:
    return [loss_text(point, shown.hits(name), stage, name) for name in shown.task.scores for stage in STAGES]


def _latencies(shown: Board, found: Latencies) -> list[str]:
    peer = found.best_peer()
    load = f"; other processes used {quartiles(found.others).median:.2f} cores (median)" if found.others else ""
    lines = ["", f"Latency, batch {found.batch}, {found.threads} threads{load}; best dense peer: {peer}.", ""]
    lines += ["| network | ms | speed-up | lost one-shot | lost after recovery |", "|---|---|---|---|---|"]
    for name in (*PEERS, OURS_DENSE):
        lines.append(_row(shown, found, name, name, None))
    lines.append(_row(shown, found, INT8, INT8, shown.int8))
    for point in shown.points:
        name = timing_name(point.arm, point.level)
        if name in found.times or name in found.failures:
            lines.append(_row(shown, found, point.title, name, point))
    return lines


def _row(shown: Board, found: Latencies, title: str, name: str, point: Scored | None) -> str:
    if name not in found.times:
        return f"| {title} | {found.failures.get(name, 'not timed')} | - | - | - |"
    times, speed = quartiles(found.times[name]), shown.speed_up(name)
    ratio = "-" if speed is None else f"{speed.median:.2f} ({speed.lower:.2f}–{speed.upper:.2f})"
    losses = ["0, dense", "-"] if point is None else [loss_text(point, shown.hits(shown.score), stage, shown.score) for stage in STAGES]
    return f"| {title} | {times.median:.3f} ({times.lower:.3f}–{times.upper:.3f}) | {ratio} | {' | '.join(losses)} |"
