"""Axis rules of elementwise ops: operands broadcast, axes stay what they are."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.ops.axes.common import aligned, same_axes
from graphopt.ops.axes.links import AxisLink, Tie, Weight, operand
from graphopt.ops.registry import Call

__all__ = ["broadcast_axes", "prelu_axes", "unary_axes"]


def unary_axes(call: Call) -> Iterator[AxisLink]:
    """Every axis stays."""
    return same_axes(call.type(0).rank)


def broadcast_axes(call: Call) -> Iterator[AxisLink]:
    """Axes are aligned at the last; where an operand has one position, it serves all."""
    types = call.tensor_types()
    rank = max(found.rank for found in types)
    shape = (0,) * rank
    for index in range(len(call.operands)):
        yield from aligned(call, index, shape)


def prelu_axes(call: Call) -> Iterator[AxisLink]:
    """A slope for each channel of axis 1."""
    yield from same_axes(call.type(0).rank)
    if call.type(1).elements != 1 and call.type(0).rank > 1:
        yield Tie(operand(1, 0), operand(0, 1))
        yield Weight(operand(1, 0), "scaled", "slope")
