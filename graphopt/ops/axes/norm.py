"""Axis rules of normalisations: axes stay; an axis that statistics are taken over is renormalised by a cut."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.ops.axes.common import same_axes
from graphopt.ops.axes.links import AxisLink, Choice, Place, Product, Sums, Tie, Weight, operand, result
from graphopt.ops.registry import Call

__all__ = ["batch_norm_axes", "group_norm_axes", "instance_norm_axes", "last_axes_norm_axes", "softmax_axes", "weight_norm_axes"]

_NAMES = ("x", "scale", "shift", "mean", "variance")


def _states(call: Call) -> Iterator[AxisLink]:
    for index in range(1, len(call.operands)):
        if call.optional_type(index) is not None:
            yield Weight(operand(index, 0), "scaled", _NAMES[index])


def _per_channel(call: Call) -> Iterator[AxisLink]:
    yield from same_axes(call.type(0).rank)
    yield from _states(call)
    for index in range(1, len(call.operands)):
        if call.optional_type(index) is not None:
            yield Tie(operand(index, 0), result(1))


def batch_norm_axes(call: Call) -> Iterator[AxisLink]:
    """Channels keep to themselves; statistics of the batch are taken over all other axes."""
    yield from _per_channel(call)
    if call.attrs["mode"] == "train" or call.optional_type(3) is None:
        for axis in range(call.type(0).rank):
            if axis != 1:
                yield Sums(operand(0, axis), renormalises=True)


def instance_norm_axes(call: Call) -> Iterator[AxisLink]:
    """Channels keep to themselves; statistics are taken over the axes behind them."""
    yield from _per_channel(call)
    for axis in range(2, call.type(0).rank):
        yield Sums(operand(0, axis), renormalises=True)


def group_norm_axes(call: Call) -> Iterator[AxisLink]:
    """Either whole groups go, which changes no other group, or the same channels of every group do."""
    groups, found = call.integer("groups"), call.type(0)
    for axis in range(2, found.rank):
        yield from (Tie(operand(0, axis), result(axis)), Sums(operand(0, axis), renormalises=True))
    yield Tie(operand(0, 0), result(0))
    if groups == 1:
        yield from _states(call)
        yield from (Tie(operand(0, 1), result(1)), Sums(operand(0, 1), renormalises=True))
        yield from (Tie(operand(index, 0), result(1)) for index in (1, 2) if call.optional_type(index) is not None)
        return
    yield from _states(call)
    channels = found.shape[1]
    if not isinstance(channels, int):
        return
    places: list[Place] = [operand(0, 1), result(1), *(operand(index, 0) for index in (1, 2) if call.optional_type(index) is not None)]
    members = tuple((place, (0, 1)) for place in places)
    digits = (groups, channels // groups)
    within = (Product(digits, members, 1), Sums(operand(0, 1), renormalises=True))
    yield Choice((within, (Product(digits, members, 0),)))


def last_axes_norm_axes(call: Call) -> Iterator[AxisLink]:
    """Layer norm and RMS norm: statistics over the last axes, which the states have."""
    rank, count = call.type(0).rank, len(call.dims("normalized_shape"))
    yield from same_axes(rank)
    for axis in range(rank - count, rank):
        yield Sums(operand(0, axis), renormalises=True)
    for index in range(1, len(call.operands)):
        if call.optional_type(index) is not None:
            for axis in range(count):
                yield Tie(operand(index, axis), result(rank - count + axis))
                yield Weight(operand(index, axis), "scaled", _NAMES[index])


def softmax_axes(call: Call) -> Iterator[AxisLink]:
    """All positions of one axis share a sum."""
    yield from same_axes(call.type(0).rank)
    if call.type(0).rank:
        yield Sums(operand(0, call.integer("axis")), renormalises=True)


def weight_norm_axes(call: Call) -> Iterator[AxisLink]:
    """A length for each position of one axis, taken over all others."""
    axis = call.integer("axis")
    yield from same_axes(call.type(0).rank)
    yield Tie(operand(1, axis), result(axis))
    for other in range(call.type(0).rank):
        if other != axis:
            yield Sums(operand(0, other), renormalises=True)
