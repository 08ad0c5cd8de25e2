"""The least time that a network can take on this GPU, by ceilings that are measured in the same run.

ceilings()                   {"flops": ..., "bytes": ...} per second: a large matrix product, a large copy
least_seconds(graph, ...)    the longer of all computing and of moving inputs, weights and outputs once
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from graphopt.analysis.cost import cost
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import DType

__all__ = ["Ceilings", "ceilings", "least_bytes", "least_seconds", "milliseconds"]

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
    """The roofline of the graph as a whole, however its nodes are fused: all operations, or all bytes that have to move, whichever takes
    longer.

    Nodes whose operations are not known count nothing, so the bound stays a bound. Operations are counted as the ops define them:
    an algorithm that needs fewer multiplications (Winograd's, for convolutions) can beat it.
    """
    work = sum(node.flops for node in cost(graph).nodes if isinstance(node.flops, int))
    return max(work / limits.flops, least_bytes(graph, bytes_per_float) / limits.bytes)


def least_bytes(graph: Graph, bytes_per_float: int) -> float:
    """What has to be read and written at least: inputs, weights and outputs once, nothing in between, with float32 in that many bytes.

    Of a table of which nodes pick elements only as much counts as they read.
    """
    read = {node.name: node.bytes_read for node in cost(graph).nodes}
    total = 0.0
    for value in (*graph.inputs, *(state.value for state in graph.states.values())):
        readers = {use.node.name for use in value.uses}
        picked = [count for name in readers if isinstance(count := read[name], int)]
        size = _size(value, 4)
        total += min(1.0, sum(picked) / size) * _size(value, bytes_per_float) if size else 0.0
    outputs = {output for output in graph.outputs if isinstance(output, Value)}
    return total + sum(_size(output, bytes_per_float) for output in outputs)


def _size(value: Value, bytes_per_float: int) -> float:
    """Bytes of a value; 0 where a size is not known."""
    sizes = [size for size in value.type.shape if isinstance(size, int)]
    known = len(sizes) == value.type.rank
    return float(known * math.prod(sizes) * (bytes_per_float if value.type.dtype is DType.f32 else value.type.dtype.bytes))
