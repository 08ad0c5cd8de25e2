"""The page: a table for each dtype and batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tools.bench_cpu.table import figure
from tools.bench_cuda.arms import ARMS, OURS, PEERS
from tools.bench_cuda.records import Record

__all__ = ["page", "summary"]

_INTRODUCTION = """\
# The CUDA backend beside its peers

Written by `python -m tools.bench_cuda` from what it measured; do not edit by hand.

All arms run in one process on one GPU, in turns: a round gives each arm one turn of calls that are launched back to back between two
events. Inputs are on the device. A cell is `median ms (quartiles) error`; the error is the largest difference from the network in float64,
relative to the largest value, of the worst output. The ratio is the time of the best peer over ours, per round: median (quartiles); above
1 ours is faster. The last three are ours of a network with two of four weights, with blocks of zeros, and with half of its channels: no
peers of the dense one.
*Roofline* is a lower bound over our time: the longer of all operations, and of reading inputs and weights and writing outputs once, at the
ceilings that were measured on this GPU. What lies between nodes counts nothing, so fused code stays below 100%.
"""


def _time(record: Record, arm: str) -> str:
    spread = record.spread(arm)
    if spread is None:
        return "-"
    error = f" {record.errors[arm]:.0e}" if arm in record.errors else ""
    return f"{figure(spread.median)} ({figure(spread.lower)}–{figure(spread.upper)}){error}"


def _ratio(record: Record) -> str:
    best = record.best(list(PEERS))
    ratio = record.ratio(best, OURS) if best else None
    return "-" if ratio is None else f"**{ratio.median:.2f}** ({ratio.lower:.2f}–{ratio.upper:.2f}) {best}"


def _roofline(record: Record) -> str:
    ours = record.spread(OURS)
    return "-" if ours is None or not record.roofline else f"{100 * record.roofline * 1e3 / ours.median:.0f}%"


def summary(record: Record) -> str:
    """One line for the terminal."""
    cells = ", ".join(f"{arm} {_time(record, arm)}" for arm in ARMS if arm in record.times)
    failed = "".join(f"; {arm} failed: {reason}" for arm, reason in record.failures.items())
    return f"{record.stem}: {cells}; ratio {_ratio(record)}; roofline {_roofline(record)}{failed}"


def page(records: Sequence[Record]) -> str:
    """The whole page."""
    lines = [_INTRODUCTION]
    for environment in dict.fromkeys(tuple(sorted(record.environment.items())) for record in records):
        lines.append("- " + ", ".join(f"{key} {value}" for key, value in environment))
    for dtype, batch in dict.fromkeys((record.dtype, record.batch) for record in records):
        chosen = [record for record in records if (record.dtype, record.batch) == (dtype, batch)]
        lines += [
            "",
            f"## {dtype}, batch {batch}",
            "",
            "| model | " + " | ".join(ARMS) + " | ratio | roofline |",
            "|" + "---|" * (len(ARMS) + 3),
        ]
        lines += [f"| {r.model} | " + " | ".join(_time(r, arm) for arm in ARMS) + f" | {_ratio(r)} | {_roofline(r)} |" for r in chosen]
        ratios = [ratio.median for r in chosen if (best := r.best(list(PEERS))) and (ratio := r.ratio(best, OURS))]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            lines += ["", f"Geometric mean of the ratios {mean:.2f}, least {min(ratios):.2f}, of {len(ratios)} networks."]
    failures = [f"- {r.stem}, {arm}: {reason}" for r in records for arm, reason in (*r.failures.items(), *r.notes.items()) if reason]
    return "\n".join([*lines, *(["", "## What did not run as meant", "", *failures] if failures else [])]) + "\n"
