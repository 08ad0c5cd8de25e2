"""Axis rules of convolutions.

With `groups` the channels of the operand are written (group, channel in the group), those of the result likewise.
Either whole groups go, or the same channels of every group do.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.ops.axes.links import AxisLink, Choice, Fix, Place, Product, Sums, Tie, Weight, operand, result
from graphopt.ops.registry import Call

__all__ = ["conv_axes"]


def conv_axes(call: Call, spatial: int, *, transposed: bool = False) -> Iterator[AxisLink]:
    """Channels couple operand and weight, rows of the weight couple to the result; a window slides over the others."""
    channel = call.type(0).rank - spatial - 1
    if channel:
        yield Tie(operand(0, 0), result(0))
    for number, axis in enumerate(range(channel + 1, channel + 1 + spatial)):
        if _only_carries(call, number):
            yield Tie(operand(0, axis), result(axis))
            continue
        yield Fix(operand(0, axis), "slides a window over it")
        yield Fix(result(axis), "slides a window over it")
    for axis in range(2, 2 + spatial):
        yield Fix(operand(1, axis), "takes it as the window")
    columns, rows = (operand(1, 0), operand(1, 1)) if transposed else (operand(1, 1), operand(1, 0))
    bias = [operand(2, 0)] if call.optional_type(2) is not None else []
    groups = call.integer("groups")
    for place in bias:
        yield Weight(place, "scaled" if _is_depthwise(call, groups, transposed) else "written", "bias")
    if groups != 1:
        yield from _grouped(call, channel, groups, transposed)
        return
    yield from (Weight(rows, "written", "rows"), Weight(columns, "read", "columns"))
    yield from (Tie(operand(0, channel), columns), Sums(operand(0, channel)), Sums(columns))
    for place in (rows, *bias):
        yield Tie(place, result(channel))


def _only_carries(call: Call, number: int) -> bool:
    """True for a window of one position that moves by one: position i of the result is made of position i of the operand."""
    wanted = {"stride": 1, "padding": 0, "output_padding": 0}
    attrs = ((call.attrs.get(name), size) for name, size in wanted.items())
    return call.type(1).shape[2 + number] == 1 and all(not isinstance(found, tuple) or found[number] == size for found, size in attrs)


def _is_depthwise(call: Call, groups: int, transposed: bool) -> bool:
    """True where each channel of the operand is a group: the weight scales channels and makes none."""
    first, second = call.type(1).shape[:2]
    return groups != 1 and (first == groups if transposed else second == 1)


def _grouped(call: Call, channel: int, groups: int, transposed: bool) -> Iterator[AxisLink]:
    """Digits: 0 the group, 1 the operand's channel in it, 2 the result's."""
    first, second = call.type(1).shape[:2]
    if not isinstance(first, int) or not isinstance(second, int):
        return
    digits = (groups, first // groups, second) if transposed else (groups, second, first // groups)
    read: list[tuple[Place, tuple[int, ...]]] = [
        (operand(0, channel), (0, 1)),
        (operand(1, 0), (0, 1)) if transposed else (operand(1, 1), (1,)),
    ]
    made: list[tuple[Place, tuple[int, ...]]] = [
        (operand(1, 1), (2,)) if transposed else (operand(1, 0), (0, 2)),
        (result(channel), (0, 2)),
    ]
    if call.optional_type(2) is not None:
        made.append((operand(2, 0), (0, 2)))
    groups_go = (Product(digits, (*read, *made), 0),)
    if _is_depthwise(call, groups, transposed):
        yield Weight(operand(1, 0), "scaled", "kernels")
        yield Choice((groups_go,))
        return
    yield Weight(made[0][0], "written", "rows")
    yield Weight(read[1][0], "read", "columns")
    within = (Product(digits, tuple(read), 1), Product(digits, tuple(made), 2), Sums(read[0][0]), Sums(read[1][0]))
    yield Choice((within, groups_go))
