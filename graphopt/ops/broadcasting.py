"""Broadcasting of shapes whose dimensions may be symbolic.

Shapes are aligned at their last axis; equal dimensions stay, a 1 gives way. A symbolic dimension
matches an equal expression or a 1, never another size: that it *happens* to be equal at run time is
not something a graph can rest on.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.dims import Dim
from graphopt.ir.types import TensorType
from graphopt.ops.registry import Call

__all__ = ["broadcast", "broadcast_shapes", "is_expandable"]


def broadcast(call: Call) -> tuple[Dim, ...]:
    """The shape that all tensor operands of a call broadcast to.

    Raises:
        TypeInferenceError: two sizes on an axis differ and neither is 1.
    """
    return broadcast_shapes(call, [operand.shape for operand in call.operands if isinstance(operand, TensorType)])


def broadcast_shapes(call: Call, shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """The shape that some shapes broadcast to; axes in the message count from the result's first.

    Raises:
        TypeInferenceError: two sizes on an axis differ and neither is 1.
    """
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for axis, dim in enumerate(shape, start=rank - len(shape)):
            current = result[axis]
            if current == 1:
                result[axis] = dim
            elif dim not in (1, current):
                raise call.fail(
                    f"sizes differ on axis {axis} of the result: {current} and {dim}", fix="sizes have to be equal, or one of them 1"
                )
    return tuple(result)


def is_expandable(shape: tuple[Dim, ...], target: tuple[Dim, ...]) -> bool:
    """True when a tensor of `shape` can be broadcast to exactly `target`."""
    offset = len(target) - len(shape)
    return offset >= 0 and all(dim in (1, target[axis + offset]) for axis, dim in enumerate(shape))
