"""Links that rules of several families need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graphopt.ops.axes.links import AxisLink, Fix, Product, Tie, operand, result
from graphopt.ops.registry import Call

__all__ = ["aligned", "fix_all", "same_axes", "whole"]


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


def fix_all(call: Call, reason: str, results: Iterable[int] = ()) -> Iterator[AxisLink]:
    """No axis of any operand can be cut; `results` are the ranks of the results, whose axes can't be either."""
    for index in range(len(call.operands)):
        found = call.optional_type(index)
        if found is not None:
            for axis in range(found.rank):
                yield Fix(operand(index, axis), reason)
    for index, rank in enumerate(results):
        for axis in range(rank):
            yield Fix(result(axis, index), reason)


def whole(link: Product) -> bool:
    """True when the live digit is the only one of all members."""
    return all(len(digits) == 1 for _, digits in link.members)
