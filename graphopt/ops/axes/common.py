"""Links that rules of several families need."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.ops.axes.links import AxisLink, Tie, operand, result
from graphopt.ops.registry import Call

__all__ = ["aligned", "same_axes"]


def same_axes(rank: int, *skip: int, slot: int = 0, results: int = 1) -> Iterator[AxisLink]:
    """Each axis of an operand is the same axis of the results, but for some."""
    for axis in range(rank):
        if axis not in skip:
            for index in range(results):
                yield Tie(operand(slot, axis), result(axis, index))


def aligned(call: Call, index: int, shape: tuple[object, ...], upto: int | None = None) -> Iterator[AxisLink]:
    """Axes of operand `index` that broadcast to a result of `shape`, aligned at the last axis.

    `upto` leaves out the operand's last axes from there on.
    """
    found = call.optional_type(index)
    if found is None:
        return
    offset = len(shape) - found.rank
    for axis, dim in enumerate(found.shape[:upto]):
        if dim != 1:
            yield Tie(operand(index, axis), result(axis + offset))
