"""Axis rules of reductions, scans and sorting."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.ops.axes.links import AxisLink, Fix, Sums, Tie, operand, result
from graphopt.ops.registry import Call

__all__ = ["argument_axes", "reduce_axes", "scan_axes", "sort_axes"]

_ZERO_IS_NEUTRAL = frozenset({"sum", "vector_norm"})
_COUNTS = frozenset({"mean", "amax", "amin", "var", "std", "logsumexp"})
"""What these give changes when zeros are left out."""


def reduce_axes(call: Call) -> Iterator[AxisLink]:
    """Reduced axes are summed over, the others stay."""
    axes, keep = frozenset(call.integers("axes")), bool(call.attrs["keepdims"])
    order = call.attrs.get("ord", 2)
    neutral = call.op in _ZERO_IS_NEUTRAL and isinstance(order, int | float) and order > 0
    place = 0
    for axis in range(call.type(0).rank):
        if axis not in axes:
            yield Tie(operand(0, axis), result(place))
        elif neutral or call.op in _COUNTS or call.op == "vector_norm":
            yield Sums(operand(0, axis), renormalises=not neutral)
        else:
            yield Fix(operand(0, axis), "combines all its positions")
        place += axis not in axes or keep


def argument_axes(call: Call) -> Iterator[AxisLink]:
    """The result counts positions of the axis."""
    axis, keep = call.attrs["axis"], bool(call.attrs["keepdims"])
    for other in range(call.type(0).rank):
        if axis is None or other == axis:
            yield Fix(operand(0, other), "gives the number of a position")
        else:
            yield Tie(operand(0, other), result(other - (isinstance(axis, int) and other > axis and not keep)))


def scan_axes(call: Call) -> Iterator[AxisLink]:
    """A position holds all before it."""
    return _along(call, "adds up positions before it", 1)


def sort_axes(call: Call) -> Iterator[AxisLink]:
    """Positions are chosen by their numbers."""
    return _along(call, "orders its positions", 2)


def _along(call: Call, reason: str, results: int) -> Iterator[AxisLink]:
    fixed = call.integer("axis")
    for axis in range(call.type(0).rank):
        for index in range(results):
            if axis == fixed:
                yield Fix(result(axis, index), reason)
            else:
                yield Tie(operand(0, axis), result(axis, index))
        if axis == fixed:
            yield Fix(operand(0, axis), reason)
