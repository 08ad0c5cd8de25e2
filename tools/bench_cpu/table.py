"""The page: tables in Markdown from the newest sessions of each case."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tools.bench_cpu import models
from tools.bench_cpu.arms import INFORMATIVE, LEAST, OURS, PEERS
from tools.bench_cpu.goals import GOALS
from tools.bench_cpu.records import Case, Quartiles, Session, newest, read
from tools.check_cpu import per_layer
from tools.check_cpu import summary as check_summary

__all__ = ["cases", "figure", "page", "summary", "time_cell"]

_INTRODUCTION = """\
# The CPU backend beside its peers

Written by `python -m tools.bench_cpu` from what it measured; do not edit by hand.

**How.** Each arm (ours, ONNX Runtime, OpenVINO, torch.compile with freezing, eager PyTorch) runs in a process of its own, all
pinned to the same cores. One process at a time is awake: the others are stopped (SIGSTOP), so nothing of them, no spinning
thread either, takes a core from the one that is measured. A round gives every arm one turn, in turning order: an untimed
run, then runs back to back; the median of these is the arm's time in that round. A canary (mobilenet_v2 in ONNX Runtime)
runs before and after each round. A round does not count when the canary is more than 10% off its own median, or when other
processes on the machine used more than 0.15 of a core meanwhile.

**What the peers get.** Two ONNX files of the same network, from `torch.onnx.export(dynamo=True)` and from our own exporter after
the lossless passes; ONNX Runtime and OpenVINO each run the one that is faster for them. OpenVINO: latency hint, float32.
torch.compile: inductor with freezing, after compilation. All compute in float32, on the same inputs and random weights.

**Reading.** A cell is `median ms (quartiles) error`. The error is the largest difference from the network in float64, relative to
the largest value of the reference, worst output. The ratio is the time of the best peer (least median) over ours, taken
per round: median (quartiles); above 1 ours is faster. *Rounds* are those that count of those that ran; `!` marks sessions in
which fewer than three were quiet (all of them are used then).
"""


def cases(results: Path) -> list[Case]:
    """All cases with results: by batch, threads, and in the order of the model lists."""
    order = {name: index for index, name in enumerate((*models.DENSE, *models.SPARSE))}
    found = [read(file)[0].case for file in sorted(results.glob("*.json"))]
    return sorted(found, key=lambda case: (case.batch, -case.threads, order.get(case.model, len(order)), case.model))


def figure(number: float) -> str:
    """Milliseconds with three significant digits or two decimals."""
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 20 else f"{number:.2f}"


def _range(value: Quartiles) -> str:
    return f"{figure(value.median)} ({figure(value.lower)}–{figure(value.upper)})"


def time_cell(session: Session, arm: str) -> str:
    """`9.21 (9.18–9.30) 5e-07`, or `-` for an arm that did not run."""
    record, times = session.arms.get(arm), session.times(arm)
    if record is None or times is None:
        return "-"
    return f"{_range(times)} {record.error:.0e}" if record.error is not None else _range(times)


def _ratio_cell(session: Session, peers: Sequence[str]) -> str:
    best = session.best(peers)
    ratio = session.ratio(best, OURS) if best else None
    if best is None or ratio is None:
        return "-"
    return f"**{ratio.median:.2f}** ({ratio.lower:.2f}–{ratio.upper:.2f}) {best}"


def _rounds_cell(session: Session) -> str:
    return f"{len(session.quiet)}/{len(session.rounds)}{'!' if session.is_noisy else ''}"


def _goal_cell(session: Session) -> str:
    goal = GOALS.get(session.case.model)
    return f"{goal.floor} / {goal.target}" if goal and (session.case.batch, session.case.threads) == (1, 2) else "-"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(row) + " |" for row in rows)]


def page(results: Path, plot: str | None, checks: Path | None = None) -> str:
    """The whole page; `plot` is the address of the picture relative to it, `checks` the folder that `tools.check_cpu` writes to."""
    lines = [_INTRODUCTION]
    everything = cases(results)
    sessions = [session for case in everything if (session := newest(results, case, LEAST)) is not None]
    lines += _environments(sessions)
    if plot is not None:
        lines += [f"![Time of each peer over ours, per model]({plot})", ""]
    for batch, threads in dict.fromkeys((case.batch, case.threads) for case in everything):
        chosen = [s for s in sessions if (s.case.batch, s.case.threads) == (batch, threads)]
        if chosen:
            lines += _float_section(batch, threads, chosen)
    low = [s for case in everything if (s := newest(results, case, (OURS, *INFORMATIVE))) is not None]
    if low:
        lines += _low_precision_section(low)
    lines += _layers_section(sorted((results.parent / "layers").glob("*.json")))
    lines += _checks_section(sorted(checks.glob("summary-*.json")) if checks is not None else [])
    lines += _failures(sessions + low)
    return "\n".join(lines).rstrip() + "\n"


def _environments(sessions: Sequence[Session]) -> list[str]:
    counts = Counter(tuple(sorted(session.environment.items())) for session in sessions)
    lines: list[str] = []
    for environment, count in counts.most_common():
        where = "" if len(counts) == 1 else f"{count} sessions: "
        lines.append(f"- {where}" + ", ".join(f"{key} {value}" for key, value in environment))
    if sessions:
        days = sorted(session.taken[:10] for session in sessions)
        others = statistics.median(entry.others for session in sessions for entry in session.rounds)
        lines.append(
            f"- Measured {days[0]}{f' to {days[-1]}' if days[-1] != days[0] else ''}; other processes used {others:.2f} cores (median)."
        )
    return ["Machine and versions:", "", *lines, ""]


def _float_section(batch: int, threads: int, sessions: Sequence[Session]) -> list[str]:
    heads = ["model", "ours", *PEERS, "best peer / ours", "floor / target", "rounds"]
    rows = [
        [s.case.model, time_cell(s, OURS), *(time_cell(s, peer) for peer in PEERS), _ratio_cell(s, PEERS), _goal_cell(s), _rounds_cell(s)]
        for s in sessions
    ]
    if (batch, threads) != (1, 2):
        heads, rows = _without(heads, rows, "floor / target")
    title = f"## Batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
    command = f"    python -m tools.bench_cpu --batch {batch} --threads {threads}"
    ratios = [ratio.median for s in sessions if (best := s.best(PEERS)) and (ratio := s.ratio(best, OURS))]
    mean = [f"Geometric mean of the ratios: {statistics.geometric_mean(ratios):.2f} over {len(ratios)} models.", ""] if ratios else []
    return [title, "", command, "", *_markdown(heads, rows), "", *mean]


def _without(heads: list[str], rows: list[list[str]], head: str) -> tuple[list[str], list[list[str]]]:
    at = heads.index(head)
    return heads[:at] + heads[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]


def _low_precision_section(sessions: Sequence[Session]) -> list[str]:
    text = """\
## Lower precision, for information

    python -m tools.bench_cpu --arms ours,low --models resnet50,mobilenet_v2,vit_b_16,bert

What else one could do: the peers in int8 and bf16 beside ours in float32. Quantised by ONNX Runtime's tools (static QDQ and
dynamic; each runtime runs the faster one), ranges from random inputs: right for speed, the errors say nothing about a model that
was quantised with care."""
    heads = ["model", "batch", "threads", "ours (float32)", *INFORMATIVE, "rounds"]
    rows = [
        [s.case.model, str(s.case.batch), str(s.case.threads), *(time_cell(s, arm) for arm in (OURS, *INFORMATIVE)), _rounds_cell(s)]
        for s in sessions
    ]
    return [text, "", *_markdown(heads, rows), ""]


def _layers_section(files: Sequence[Path]) -> list[str]:
    if not files:
        return []
    text = """\
## Fraction of peak

    python -m tools.check_cpu --per-layer MODEL --layer-threads 2 --json build/bench_cpu/layers/MODEL.json

Steps of ours by algorithm: time when each is at its fastest, and floating-point operations of the mathematical op per second, as
a fraction of what a loop of multiply-adds in registers reaches on as many cores. Winograd and sparse kernels do fewer
operations than the op has, so they may exceed 100%. The command prints the table of every single step."""
    heads = ["model", "threads", "algorithm", "steps", "ms", "share", "GFLOPS", "of peak"]
    rows: list[list[str]] = []
    for layers in map(per_layer.read, files):
        whole = sum(step.flops for step in layers.steps)
        named = [("**all**", len(layers.steps), layers.total, whole), *per_layer.by_algorithm(layers.steps)]
        for name, count, seconds, flops in named:
            rate = flops / seconds if flops and seconds else 0.0
            speed = [f"{rate / 1e9:.0f}", f"{rate / layers.peak:.0%}"] if rate else ["-", "-"]
            row = [layers.model, str(layers.threads), name, str(count), f"{seconds * 1e3:.2f}", f"{seconds / layers.total:.0%}"]
            rows.append([*row, *speed])
    return [text, "", *_markdown(heads, rows), ""]


def _checks_section(files: Sequence[Path]) -> list[str]:
    lines = """\
## Is it right?

    python -m tools.check_cpu                       # 300 random networks; how many were run last stands below
    python -m tools.check_cpu --isa avx2
    python -m tools.check_cpu --sanitize --count 100

Random convolutional networks and transformers with odd sizes, and random ops, every third network after the lossless passes. The
kernel of each step is drawn from all candidates. Each network is run with 1, 2 and 4 threads, which must give the same bits, and
compared with float64: an error may be twice that of eager float32 plus 1e-6 of the largest value (1e-5 with Winograd steps).
Sanitizers are AddressSanitizer and UndefinedBehaviorSanitizer.""".splitlines()
    if not files:
        return [*lines, ""]
    heads = ["vectors", "sanitizers", "kernels", "networks", "steps", "threads", "failed", "largest error", "date"]
    rows = [
        [
            found.isa,
            found.sanitize.replace(",", ", ") or "-",
            "measured" if found.measure else "drawn",
            *(str(found.networks), str(found.steps), ", ".join(map(str, found.threads)), str(found.failed)),
            *(f"{found.error:.0e}", found.taken[:10]),
        ]
        for found in map(check_summary.read, files)
    ]
    return [*lines, "", *_markdown(heads, rows), ""]


def _failures(sessions: Sequence[Session]) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for session in sessions:
        for arm, record in session.arms.items():
            if record.failure:
                reasons.setdefault((arm, record.failure), []).append(str(session.case))
    if not reasons:
        return []
    lines = ["## What did not run", ""]
    for (arm, reason), where in reasons.items():
        shown = where[0] if len(where) == 1 else f"{where[0]} and {len(where) - 1} more"
        lines.append(f"- {arm}, {shown}: {reason}")
    return [*lines, ""]


def summary(session: Session) -> str:
    """One line for the terminal."""
    parts = [f"{arm} {time_cell(session, arm)}" if not record.failure else f"{arm} failed" for arm, record in session.arms.items()]
    best = session.best(PEERS)
    ratio = session.ratio(best, OURS) if best else None
    verdict = f"{ratio.median:.2f}x" if ratio else "-"
    return f"{session.case}: {verdict} | " + " | ".join(parts) + f" | rounds {_rounds_cell(session)}"
