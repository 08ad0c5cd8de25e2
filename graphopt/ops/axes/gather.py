"""Axis rules of ops that read or write at computed positions: an indexed axis can't be cut, others stay."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.ir.types import DType
from graphopt.ops.axes.links import AxisLink, Fix, Tie, Weight, operand, result
from graphopt.ops.registry import Call

__all__ = ["embedding_axes", "gather_axes", "index_axes", "index_put_axes", "index_select_axes", "scatter_axes", "slice_scatter_axes"]

_LOOKED_UP = "looks positions up by number"


def embedding_axes(call: Call) -> Iterator[AxisLink]:
    """Rows are looked up, features stay."""
    last = call.type(1).rank
    yield from (Fix(operand(0, 0), "looks its rows up by number"), Tie(operand(0, 1), result(last)))
    yield Weight(operand(0, 1), "written", "columns")
    for axis in range(last):
        yield Tie(operand(1, axis), result(axis))


def gather_axes(call: Call) -> Iterator[AxisLink]:
    """The index has the shape of the result; on other axes position i of the index reads position i of x."""
    fixed, found, index = call.integer("axis"), call.type(0), call.type(1)
    for axis in range(index.rank):
        if axis == fixed or axis >= found.rank:
            yield Tie(operand(1, axis), result(axis))
        elif found.shape[axis] == index.shape[axis]:
            yield from (Tie(operand(0, axis), result(axis)), Tie(operand(1, axis), result(axis)))
        else:
            reason = "takes the first positions of a longer axis"
            yield from (Fix(place, reason) for place in (operand(0, axis), operand(1, axis), result(axis)))
    if found.rank:
        yield Fix(operand(0, fixed), _LOOKED_UP)


def index_select_axes(call: Call) -> Iterator[AxisLink]:
    """Rows are looked up, other axes stay."""
    fixed = call.integer("axis")
    for axis in range(call.type(0).rank):
        if axis == fixed:
            yield from (Fix(operand(0, axis), _LOOKED_UP), Fix(result(axis), _LOOKED_UP))
        else:
            yield Tie(operand(0, axis), result(axis))


def _indexed(call: Call, first: int) -> tuple[list[tuple[int, int]], range]:
    """(axis of x, axis of x[indices]) of the axes that stay, and the axes of x[indices] that the indices make."""
    found = call.type(0)
    indices = [call.optional_type(position) for position in range(first, len(call.operands))]
    used = [axis for axis, index in enumerate(indices) if index is not None]
    block = max((index.rank for index in indices if index is not None), default=0)
    kept = [axis for axis in range(found.rank) if axis not in used]
    together = bool(used) and used == list(range(used[0], used[-1] + 1))
    before = [axis for axis in kept if together and axis < used[0]]
    pairs = [(axis, place) for place, axis in enumerate(before)]
    pairs += [(axis, len(before) + block + place) for place, axis in enumerate(axis for axis in kept if axis not in before)]
    return pairs, range(len(before), len(before) + block)


def index_axes(call: Call) -> Iterator[AxisLink]:
    """Axes without an index stay; those of the indices come in."""
    pairs, block = _indexed(call, 1)
    for axis, place in pairs:
        yield Tie(operand(0, axis), result(place))
    for axis in range(call.type(0).rank):
        if all(axis != kept for kept, _ in pairs):
            yield Fix(operand(0, axis), _LOOKED_UP)
    for position in range(1, len(call.operands)):
        index = call.optional_type(position)
        for axis, dim in enumerate(index.shape if index is not None else ()):
            if dim != 1 and index is not None:
                yield Tie(operand(position, axis), result(block.stop - index.rank + axis))


def index_put_axes(call: Call) -> Iterator[AxisLink]:
    """As x[indices] = values; axes without an index stay."""
    pairs, block = _indexed(call, 2)
    indices = (call.optional_type(position) for position in range(2, len(call.operands)))
    if any(index is not None and index.dtype in (DType.boolean, DType.u8) for index in indices):
        return  # a mask covers several axes
    values = call.optional_type(1)
    for axis, place in pairs:
        yield Tie(operand(0, axis), result(axis))
        if values is not None:
            own = place - (block.stop - block.start + len(pairs)) + values.rank
            if own >= 0 and values.shape[own] != 1:
                yield Tie(operand(1, own), result(axis))


def scatter_axes(call: Call) -> Iterator[AxisLink]:
    """Only what has the same size everywhere stays."""
    fixed, found, index, source = call.integer("axis"), call.type(0), call.type(1), call.optional_type(2)
    for axis in range(found.rank):
        same = axis < index.rank and index.shape[axis] == found.shape[axis] and (source is None or source.shape[axis] == found.shape[axis])
        if axis != fixed and same:
            yield from (Tie(operand(0, axis), result(axis)), Tie(operand(1, axis), result(axis)))
            if source is not None:
                yield Tie(operand(2, axis), result(axis))


def slice_scatter_axes(call: Call) -> Iterator[AxisLink]:
    """The source replaces a range of the axis, or one position of it; other axes stay."""
    fixed, rank = call.integer("axis"), call.type(0).rank
    gone = call.op == "select_scatter"  # the source has the axis no more
    for axis in range(rank):
        if axis != fixed:
            yield from (Tie(operand(0, axis), result(axis)), Tie(operand(1, axis - (gone and axis > fixed)), result(axis)))
