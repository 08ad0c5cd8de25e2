"""The least time that a network can take on this GPU, by ceilings that are measured in the same run.

ceilings()                   {"flops": ..., "bytes": ...} per second: a large matrix product, a large copy
least_seconds(graph, ...)    sum over nodes of the longer of computing and moving
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from graphopt.analysis.cost import cost
from graphopt.ir.graph import Graph

__all__ = ["Ceilings", "ceilings", "least_seconds", "milliseconds"]

_SIDE = 8192
_COPIED = 1 << 30
_REPEATS = 10


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Floating-point operations and bytes per second that the GPU reaches on the plainest work."""

    flops: float
    bytes: float


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Of one call, as the mean of some that are launched back to back between two events."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeats


def ceilings(dtype: str) -> Ceilings:
    """The best of three of a square product of side 8192 in that dtype, and of a copy of one GiB (read and written)."""
    kind = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(dtype, torch.float32)
    a = torch.randn(_SIDE, _SIDE, device="cuda", dtype=kind)
    source = torch.empty(_COPIED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    torch.mm(a, a)
    target.copy_(source)
    product = min(milliseconds(lambda: a @ a, _REPEATS) for _ in range(3))
    copy = min(milliseconds(lambda: target.copy_(source), _REPEATS) for _ in range(3))
    return Ceilings(2 * _SIDE**3 / product * 1e3, 2 * _COPIED / copy * 1e3)


def least_seconds(graph: Graph, limits: Ceilings, bytes_per_float: int) -> float:
    """The roofline of the graph: its nodes one after the other, each as fast as the ceilings allow, with floats of that size.

    Nodes whose cost is not known count nothing, so the bound stays a bound.
    """
    total = 0.0
    for node in cost(graph).nodes:
        moved = node.bytes if isinstance(node.bytes, int) else 0
        work = node.flops if isinstance(node.flops, int) else 0
        total += max(work / limits.flops, moved * bytes_per_float / 4 / limits.bytes)
    return total
