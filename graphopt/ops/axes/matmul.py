"""Axis rules of matrix products."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.errors import TypeInferenceError
from graphopt.ops.axes.common import aligned
from graphopt.ops.axes.links import AxisLink, Fix, Heads, Sums, Tie, Weight, operand, result
from graphopt.ops.einsum import parse_equation
from graphopt.ops.registry import Call

__all__ = ["einsum_axes", "linear_axes", "matmul_axes"]


def linear_axes(call: Call) -> Iterator[AxisLink]:
    """The last axis of x couples to columns, the last of the result to rows."""
    last = call.type(0).rank - 1
    for axis in range(last):
        yield Tie(operand(0, axis), result(axis))
    yield from (Tie(operand(0, last), operand(1, 1)), Sums(operand(0, last)), Sums(operand(1, 1)))
    yield from (Weight(operand(1, 0), "written", "rows"), Weight(operand(1, 1), "read", "columns"))
    yield Tie(operand(1, 0), result(last))
    if call.optional_type(2) is not None:
        yield from (Weight(operand(2, 0), "written", "bias"), Tie(operand(2, 0), result(last)))


def matmul_axes(call: Call) -> Iterator[AxisLink]:
    """Rows of a and columns of b stay, the axis between them is summed over; batch axes broadcast."""
    left, right = call.type(0).rank, call.type(1).rank
    batch = max(left - 2, right - 2, 0)
    shape = (0,) * batch
    for index, rank in ((0, left), (1, right)):
        if rank > 2:
            for link in aligned(call, index, (*shape, 0, 0), rank - 2):
                assert isinstance(link, Tie), "operands are aligned by ties"
                yield from (link, Heads(link.left))
    inner = operand(0, left - 1), operand(1, max(right - 2, 0))
    yield from (Tie(*inner), Sums(inner[0]), Sums(inner[1]))
    yield from (Weight(place, "read", "columns") for place in inner)
    if left > 1:
        yield from (Tie(operand(0, left - 2), result(batch)), Weight(operand(0, left - 2), "written", "rows"))
    if right > 1:
        last = batch + (left > 1)
        yield from (Tie(operand(1, right - 1), result(last)), Weight(operand(1, right - 1), "written", "rows"))


def einsum_axes(call: Call) -> Iterator[AxisLink]:
    """Axes with the same letter go together; letters that the result has not are summed over."""
    types = call.tensor_types()
    try:
        equation = parse_equation(call, call.text("equation"), tuple(found.rank for found in types))
    except TypeInferenceError:
        return
    sizes: dict[str, object] = {}
    for labels, found in zip(equation.inputs, types, strict=True):
        for label, dim in zip(labels, found.shape, strict=True):
            if sizes.setdefault(label, dim) == 1:
                sizes[label] = dim
    readers = {label: sum(label in labels for labels in equation.inputs) for label in sizes}
    output = {label: result(axis) for axis, label in enumerate(equation.output)}
    seen = dict(output)
    for index, (labels, found) in enumerate(zip(equation.inputs, types, strict=True)):
        for axis, (label, dim) in enumerate(zip(labels, found.shape, strict=True)):
            place = operand(index, axis)
            if labels.count(label) > 1:
                yield Fix(place, "takes its diagonal")
            if dim != 1 or sizes[label] == 1:
                if label in seen:
                    yield Tie(place, seen[label])
                seen.setdefault(label, place)
                if label not in output:
                    yield from (Sums(place), Weight(place, "read", "columns"))
                elif readers[label] > 1:
                    yield Heads(place)
                else:
                    yield Weight(place, "written", "rows")
            elif label not in output:
                yield Sums(place)
