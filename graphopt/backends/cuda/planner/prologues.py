"""Chains that ride in front of the kernel that reads them, which computes them as it reads.

    matmul + div + add -> softmax        the library multiplies; softmax divides and adds
    convolution + relu -> mean           the map is read once, and never written again

Where a group ends in an elementwise step, alone or behind a library call, and one kernel that can do the same work is all that
reads its result, the step waits until that kernel is planned. A kernel that can't take it gets the step first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.backends.cuda.kernels.elementwise import Elementwise
from graphopt.backends.cuda.kernels.reduce import OPS
from graphopt.backends.cuda.plan import Step
from graphopt.backends.cuda.planner.choice import Way
from graphopt.backends.cuda.storage import Storage
from graphopt.backends.planning.groups import Group
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node
from graphopt.ir.types import DType

__all__ = ["PRODUCTS", "TAKERS", "Waiting", "is_certain", "waiting_part"]

PRODUCTS = frozenset({"linear", "matmul"})
"""Ops that have a way with the chain in front beside ways that need it as a step."""
TAKERS = OPS | PRODUCTS | {"softmax", "log_softmax", "layer_norm", "rms_norm", "adaptive_avg_pool1d", "adaptive_avg_pool2d"}
"""Ops whose emitted kernels compute a chain on operand 0 as they read it."""
_MOST_READ = 1
"""Full-size operands of a chain in front, beside the value itself: some kernels read their input up to three times, and those with it."""
_LEAST_ROWS = 64
"""Rows of a kernel that work side by side: with fewer, a step by itself keeps more of the GPU busy ..."""
_FEW = 1 << 14
"""... unless there are no more elements than this, where a step costs no more than its launch."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An elementwise step that was not planned yet, where it came from, and the names of its values."""

    work: Elementwise
    source: str
    values: tuple[str, ...]

    @property
    def step(self) -> Step:
        """It as a step of its own."""
        return Step(self.work, self.source, "", self.values)


def waiting_part(group: Group, way: Way, shapes: Shapes) -> Elementwise | None:
    """The last step of a way to run a group, if it can ride in front of what reads the group's result; else None."""
    last, result = way.works[-1], group.result
    if not isinstance(last, Elementwise) or not last.chain or group.path:
        return None
    if result.use_count != 1 or not (result.type.dtype.is_float or result.type.dtype is DType.boolean):
        return None
    use = result.uses[0]
    if use.index or use.node.op not in TAKERS or not _is_full(last.x):
        return None
    if last.y.elements > _FEW and last.y.elements < _LEAST_ROWS * _row_length(use.node, shapes):
        return None
    return last if sum(_is_full(operand) for operand in last.chain.operands) <= _MOST_READ else None


def is_certain(group: Group) -> bool:
    """True where what reads the group's result has no other way than to take a chain in front."""
    return group.result.uses[0].node.op not in PRODUCTS


def _row_length(node: Node, shapes: Shapes) -> int:
    """Elements that one row of the node's kernel goes through."""
    x = shapes.of(node.value(0))
    match node.op:
        case "linear" | "matmul":
            return 1  # tiles of rows and columns
        case "softmax" | "log_softmax":
            return x[shapes.dim(node.attrs["axis"])] if x else 1
        case "layer_norm" | "rms_norm":
            return math.prod(shapes.dims(node.attrs["normalized_shape"]))
        case _:
            return math.prod(x) // max(1, math.prod(shapes.of(node.results[0])))


def _is_full(storage: Storage) -> bool:
    """True where every element is read from a place of its own."""
    return all(stride or size == 1 for size, stride in zip(storage.shape, storage.strides, strict=True))
