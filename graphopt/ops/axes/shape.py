"""Axis rules of ops that move elements.

reshape(%x: f32[8,197,768]) {shape=(8, 197, 12, 64)}      axis 2 is written in the digits (12, 64): one of them is live
concat(%a: f32[1,64,8,8], %b: f32[1,32,8,8]) {axis=1}     a is positions 0 to 63, b positions 64 to 95
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from graphopt.ir.dims import Dim
from graphopt.ops.axes.common import same_axes
from graphopt.ops.axes.links import AxisLink, Choice, Fix, Free, Parts, Place, Product, Tie, operand, result
from graphopt.ops.registry import Call

__all__ = [
    "concat_axes",
    "expand_axes",
    "flip_axes",
    "pad_axes",
    "permute_axes",
    "reshape_axes",
    "roll_axes",
    "select_axes",
    "slice_axes",
    "split_axes",
    "tile_axes",
    "triangle_axes",
]

Sized: TypeAlias = "tuple[Place, int]"


def reshape_axes(call: Call) -> Iterator[AxisLink]:
    """The two shapes are cut into the smallest blocks with equal numbers of elements, from the last axis on.

    Where a symbolic size is in the way, see `_around_symbol`.
    """
    left: list[tuple[Place, Dim]] = [(operand(0, axis), dim) for axis, dim in enumerate(call.type(0).shape) if dim != 1]
    right: list[tuple[Place, Dim]] = [(result(axis), dim) for axis, dim in enumerate(call.dims("shape")) if dim != 1]
    while left and right:
        first, second = [left.pop()], [right.pop()]
        if first[0][1] == second[0][1]:
            yield Tie(first[0][0], second[0][0])
            continue
        if not _fill_block(first, second, left, right):
            yield from _around_symbol(first, second, left, right)
            return
        yield from _block(_sizes(first), _sizes(second))


def _fill_block(
    first: list[tuple[Place, Dim]], second: list[tuple[Place, Dim]], left: list[tuple[Place, Dim]], right: list[tuple[Place, Dim]]
) -> bool:
    """Move axes from the rests into the block until both sides have the same number of elements."""
    a, b = first[0][1], second[0][1]
    while a != b:
        if not isinstance(a, int) or not isinstance(b, int):
            return False
        source, target = (left, first) if a < b else (right, second)
        if not source or a == 0 or b == 0:
            return False
        target.append(source.pop())
        a, b = (a * target[-1][1], b) if target is first else (a, b * target[-1][1])
    first.reverse()
    second.reverse()
    return True


def _around_symbol(
    first: list[tuple[Place, Dim]], second: list[tuple[Place, Dim]], left: list[tuple[Place, Dim]], right: list[tuple[Place, Dim]]
) -> Iterator[AxisLink]:
    """Links of what is before and behind a symbolic size, of a block that was filled from its end up to there.

    [1, 64, h, w] -> [1, 64, h * w]         first axes of equal size are the same
    [7, batch, 64] -> [7, 8 * batch, 8]     the 64 is written in the digits (8, 8), of which the last can be live
    """
    for block, other in ((first, second), (second, first)):
        inner, whole = math.prod(size for _, size in _sizes(block[:-1])), math.prod(size for _, size in _sizes(other))
        if 1 < inner < whole and whole % inner == 0 and not isinstance(block[-1][1], int):
            yield from _block(_sizes(other[::-1]), _sizes(block[-2::-1]), whole // inner)
            del block[:-1], other[:]
            break
    yield from _same_at_the_front([*left, *reversed(first)], [*right, *reversed(second)])


def _same_at_the_front(first: list[tuple[Place, Dim]], second: list[tuple[Place, Dim]]) -> Iterator[AxisLink]:
    same = 0
    while same < min(len(first), len(second)) and first[same][1] == second[same][1]:
        yield Tie(first[same][0], second[same][0])
        same += 1
    rest = (*first[same:], *second[same:])
    size = "size 0" if all(isinstance(dim, int) for _, dim in rest) else "symbolic size"
    yield from (Fix(place, f"mixes it with an axis of {size}") for place, _ in rest)


def _sizes(block: Sequence[tuple[Place, Dim]]) -> list[Sized]:
    return [(place, dim) for place, dim in block if isinstance(dim, int)]


def _block(first: list[Sized], second: list[Sized], outer: int = 1) -> Iterator[AxisLink]:
    """Split a block into the digits that make up the axes of both sides.

    Of the second side a factor `outer` may be missing, which is in an axis that can't be cut.
    """
    strides = sorted({1, *_strides(first), *_strides(second)})
    digits = [high // low for low, high in itertools.pairwise(strides)]
    if any(high % low for low, high in itertools.pairwise(strides)):
        yield from (Fix(place, "regroups it into sizes that do not divide one another") for place, _ in (*first, *second))
        return
    digits.reverse()
    members: list[tuple[Place, tuple[int, ...]]] = []
    skipped = next(count for count in range(len(digits) + 1) if math.prod(digits[:count]) == outer)
    for side, next_digit in ((first, 0), (second, skipped)):
        for place, size in side:
            start, covered = next_digit, 1
            while covered < size:
                covered *= digits[next_digit]
                next_digit += 1
            members.append((place, tuple(range(start, next_digit))))
    yield Choice(tuple((Product(tuple(digits), tuple(members), live),) for live in range(skipped, len(digits))))


def _strides(side: list[Sized]) -> Iterator[int]:
    total = 1
    for _, size in reversed(side):
        total *= size
        yield total


def permute_axes(call: Call) -> Iterator[AxisLink]:
    """Axes change places."""
    for axis, source in enumerate(call.integers("axes")):
        yield Tie(operand(0, source), result(axis))


def expand_axes(call: Call) -> Iterator[AxisLink]:
    """Copies of one position hang together with nothing."""
    found, shape = call.type(0).shape, call.dims("shape")
    offset = len(shape) - len(found)
    for axis, dim in enumerate(shape):
        if axis >= offset and found[axis - offset] == dim:
            yield Tie(operand(0, axis - offset), result(axis))
        else:
            yield Free(result(axis), copies=True)


def slice_axes(call: Call) -> Iterator[AxisLink]:
    """A range of one axis."""
    axis, start, stop, step = call.integer("axis"), call.dim("start"), call.dim("stop"), call.integer("step")
    yield from same_axes(call.type(0).rank, axis)
    if start == 0 and stop == call.type(0).shape[axis] and step == 1:
        yield Tie(operand(0, axis), result(axis))
    elif isinstance(start, int) and isinstance(stop, int) and step == 1:
        yield Parts(operand(0, axis), ((result(axis), start),))
    else:
        reason = f"takes every {step}-th position" if step != 1 else "starts or ends at a symbolic position"
        yield from (Fix(operand(0, axis), reason), Fix(result(axis), reason))


def select_axes(call: Call) -> Iterator[AxisLink]:
    """One position by its number; the axis is gone in the result."""
    axis = call.integer("axis")
    yield Fix(operand(0, axis), "picks a position by its number")
    for other in range(call.type(0).rank):
        if other != axis:
            yield Tie(operand(0, other), result(other - (other > axis)))


def split_axes(call: Call) -> Iterator[AxisLink]:
    """Each result is a range of the operand."""
    axis, sizes = call.integer("axis"), call.dims("sizes")
    yield from same_axes(call.type(0).rank, axis, results=len(sizes))
    starts = _starts(sizes)
    if starts is not None:
        yield Parts(operand(0, axis), tuple((result(axis, index), start) for index, start in enumerate(starts)))


def concat_axes(call: Call) -> Iterator[AxisLink]:
    """Each operand is a range of the result."""
    axis = call.integer("axis")
    types = call.tensor_types()
    for index, found in enumerate(types):
        yield from same_axes(found.rank, axis, slot=index)
    starts = _starts(tuple(found.shape[axis] for found in types))
    if starts is not None:
        yield Parts(result(axis), tuple((operand(index, axis), start) for index, start in enumerate(starts)))


def _starts(sizes: tuple[Dim, ...]) -> list[int] | None:
    starts, total = list[int](), 0
    for size in sizes:
        if not isinstance(size, int):
            return None
        starts.append(total)
        total += size
    return starts


def tile_axes(call: Call) -> Iterator[AxisLink]:
    """A position goes with all its copies."""
    repeats, found = call.dims("repeats"), call.type(0).shape
    offset = len(repeats) - len(found)
    for axis, repeat in enumerate(repeats):
        size = found[axis - offset] if axis >= offset else 1
        if size == 1:
            yield Free(result(axis), copies=True)
        elif repeat == 1:
            yield Tie(operand(0, axis - offset), result(axis))
        elif isinstance(size, int) and isinstance(repeat, int):
            yield Choice(((Product((repeat, size), ((operand(0, axis - offset), (1,)), (result(axis), (0, 1))), 1),),))


def roll_axes(call: Call) -> Iterator[AxisLink]:
    """Positions move on, which can't be done to fewer of them by the same number."""
    moved = tuple(axis for axis, shift in zip(call.integers("axes"), call.dims("shifts"), strict=True) if shift != 0)
    yield from same_axes(call.type(0).rank, *moved)
    for axis in moved:
        yield from (Fix(operand(0, axis), "rolls it"), Fix(result(axis), "rolls it"))


def flip_axes(call: Call) -> Iterator[AxisLink]:
    """Other axes stay; a flipped one is fixed."""
    flipped = call.integers("axes")
    yield from same_axes(call.type(0).rank, *flipped)
    for axis in flipped:
        yield from (Fix(operand(0, axis), "turns it around"), Fix(result(axis), "turns it around"))


def pad_axes(call: Call) -> Iterator[AxisLink]:
    """The operand is a range of the result, where it is padded with one number."""
    pads = call.attrs["pads"]
    for axis, pair in enumerate(pads if isinstance(pads, tuple) else ()):
        low, high = pair if isinstance(pair, tuple) and len(pair) == 2 else (None, None)
        if low == 0 and high == 0:
            yield Tie(operand(0, axis), result(axis))
        elif call.attrs["mode"] == "constant" and isinstance(low, int) and isinstance(high, int) and low >= 0 and high >= 0:
            yield Parts(result(axis), ((operand(0, axis), low),))
        else:
            reason = "crops it, or pads it by a symbolic number" if call.attrs["mode"] == "constant" else "pads it with its own positions"
            yield from (Fix(operand(0, axis), reason), Fix(result(axis), reason))


def triangle_axes(call: Call) -> Iterator[AxisLink]:
    """The last two axes are compared by number."""
    rank = call.type(0).rank
    yield from same_axes(rank, rank - 2, rank - 1)
    for axis in (rank - 2, rank - 1):
        yield from (Fix(operand(0, axis), "compares row and column numbers"), Fix(result(axis), "compares row and column numbers"))
