"""Axis rules of ops that make tensors from attributes, and of those whose axes can't be cut."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.ops.axes.links import AxisLink, Fix, Free, Sums, Tie, Weight, operand, result
from graphopt.ops.registry import Call

__all__ = ["counting_axes", "full_axes", "recurrent_axes"]


def full_axes(call: Call) -> Iterator[AxisLink]:
    """Every position is the same."""
    for axis in range(len(call.dims("shape"))):
        yield Free(result(axis))


def counting_axes(call: Call) -> Iterator[AxisLink]:
    """Positions are numbers."""
    for axis in range(2 if call.op == "eye" else 1):
        yield Fix(result(axis), "counts its positions")


def recurrent_axes(call: Call) -> Iterator[AxisLink]:
    """Features of the operand can go; steps follow each other, hidden units feed back into all gates and layers."""
    directions = 2 if call.attrs["bidirectional"] else 1
    states = 2 if call.op == "lstm" else 1
    per_cell = 4 if call.attrs["has_biases"] else 2
    first = 1 + states
    yield Sums(operand(0, 2))
    for cell in range(directions):
        columns = operand(first + cell * per_cell, 1)
        yield from (Tie(operand(0, 2), columns), Sums(columns), Weight(columns, "read", "columns"))
    reason = "feeds it back into every gate"
    for axis in (0, 1):
        yield Fix(operand(0, axis), "goes through it step by step")
    for index in range(1, len(call.operands)):
        for axis in range(call.type(index).rank):
            if not (index >= first and axis == 1 and (index - first) % per_cell == 0 and (index - first) // per_cell < directions):
                yield Fix(operand(index, axis), reason)
    for axis in range(3):
        yield from (Fix(result(axis, index), reason) for index in range(1 + states))
