"""Ops that move elements without computing: family `shape`.

    %y: f32[batch,768] = reshape(%x) {shape=(batch, 768)}
    %z: f32[batch,3,8,8] = permute(%x) {axes=(0, 3, 1, 2)}

Shapes are resolved (no -1), axes are non-negative, `slice` has 0 <= start <= stop <= size.
"""

from __future__ import annotations

from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim, Expression
from graphopt.ir.types import TensorType
from graphopt.ops.axes.shape import (
    concat_axes,
    expand_axes,
    flip_axes,
    pad_axes,
    permute_axes,
    reshape_axes,
    roll_axes,
    select_axes,
    slice_axes,
    split_axes,
    tile_axes,
    triangle_axes,
)
from graphopt.ops.checks import axis_of, known_different, require_count, unique_axes
from graphopt.ops.flops import zero
from graphopt.ops.kinds import AXIS, DIM, DIMS, INTS, SCALAR, Kind, choice, pairs
from graphopt.ops.promotion import result_type
from graphopt.ops.registry import AxisRule, Call, Infer, OpDef, register

__all__ = ["check_index", "check_slice", "pad_pairs", "slice_length", "with_axis"]


def _text(shape: tuple[Dim, ...]) -> str:
    return f"[{','.join(str(dim) for dim in shape)}]"


def _reshape(call: Call) -> tuple[TensorType, ...]:
    found, shape = call.type(0), call.dims("shape")
    for axis, dim in enumerate(shape):
        require_count(call, f"axis {axis} of shape", dim)
    result = found.with_shape(shape)
    if known_different(found.elements, result.elements):
        raise call.fail(f"{_text(found.shape)} has {found.elements} elements, {_text(shape)} has {result.elements}")
    return (result,)


def _permute(call: Call) -> tuple[TensorType, ...]:
    found, axes = call.type(0), call.integers("axes")
    if sorted(axes) != list(range(found.rank)):
        raise call.fail(
            f"axes are {axes}, needs each of 0 to {found.rank - 1} once" if found.rank else f"axes are {axes}, the operand has none"
        )
    return (found.with_shape(tuple(found.shape[axis] for axis in axes)),)


def _expand(call: Call) -> tuple[TensorType, ...]:
    found, shape = call.type(0), call.dims("shape")
    offset = len(shape) - found.rank
    if offset < 0:
        raise call.fail(f"shape {_text(shape)} has fewer axes than {_text(found.shape)}")
    for axis, dim in enumerate(shape):
        require_count(call, f"axis {axis} of shape", dim)
    for axis, dim in enumerate(found.shape):
        if dim not in (1, shape[axis + offset]):
            raise call.fail(
                f"axis {axis} has the size {dim}, which does not expand to {shape[axis + offset]}", fix="only axes of size 1 expand"
            )
    return (found.with_shape(shape),)


def slice_length(start: Dim, stop: Dim, step: int) -> Dim:
    """Number of elements of `start, start + step, ...` below `stop`."""
    return (stop - start + (step - 1)) // step


def check_slice(call: Call, found: TensorType) -> tuple[int, Dim]:
    """Axis and length of the slice that the attributes axis, start, stop and step name.

    Raises:
        TypeInferenceError: it leaves the axis.
    """
    axis = axis_of(call, "axis", found.rank)
    if not found.rank:
        raise call.fail("the operand has no axes to slice")
    start, stop, step = call.dim("start"), call.dim("stop"), call.integer("step")
    size = found.shape[axis]
    if step < 1:
        raise call.fail(f"step is {step}, needs at least 1")
    for low, high in ((0, start), (start, stop), (stop, size)):
        difference = high - low
        if isinstance(difference, int) and difference < 0:
            raise call.fail(f"start is {start}, stop is {stop} on axis {axis} of size {size}", fix="needs 0 <= start <= stop <= size")
    return axis, slice_length(start, stop, step)


def with_axis(found: TensorType, axis: int, *sizes: Dim) -> TensorType:
    """The type with one axis replaced by zero or more others."""
    return found.with_shape((*found.shape[:axis], *sizes, *found.shape[axis + 1 :]))


def check_index(call: Call, found: TensorType) -> int:
    """Axis that the attributes axis and index point into.

    Raises:
        TypeInferenceError: the index is outside.
    """
    axis = axis_of(call, "axis", found.rank)
    if not found.rank:
        raise call.fail("the operand has no axes to select from")
    index, size = call.dim("index"), found.shape[axis]
    rest = size - index
    if (isinstance(index, int) and index < 0) or (isinstance(rest, int) and rest <= 0):
        raise call.fail(f"index is {index} on axis {axis} of size {size}", fix="needs 0 <= index < size")
    return axis


def _slice(call: Call) -> tuple[TensorType, ...]:
    axis, length = check_slice(call, call.type(0))
    return (with_axis(call.type(0), axis, length),)


def _select(call: Call) -> tuple[TensorType, ...]:
    return (with_axis(call.type(0), check_index(call, call.type(0))),)


def _split(call: Call) -> tuple[TensorType, ...]:
    found = call.type(0)
    axis, sizes = axis_of(call, "axis", found.rank), call.dims("sizes")
    if not found.rank or not sizes:
        raise call.fail(f"needs an axis and at least one size, got {found.rank} axes and sizes {_text(sizes)}")
    total: Dim = 0
    for size in sizes:
        require_count(call, "one of sizes", size)
        total = total + size
    if known_different(total, found.shape[axis]):
        raise call.fail(f"sizes {_text(sizes)} add up to {total}, axis {axis} has {found.shape[axis]}")
    return tuple(with_axis(found, axis, size) for size in sizes)


def _concat(call: Call) -> tuple[TensorType, ...]:
    types = call.tensor_types()
    if not types:
        raise call.fail("needs at least one tensor")
    first = types[0]
    axis = axis_of(call, "axis", first.rank)
    if not first.rank:
        raise call.fail("tensors without axes can't be joined", fix="reshape them to one axis")
    total: Dim = 0
    for position, found in enumerate(types):
        if found.rank != first.rank:
            raise call.fail(f"operand 0 has {first.rank} axes, operand {position} has {found.rank}")
        for other, (left, right) in enumerate(zip(first.shape, found.shape, strict=True)):
            if other != axis and known_different(left, right):
                raise call.fail(f"sizes differ on axis {other}: operand 0 has {left}, operand {position} has {right}")
        total = total + found.shape[axis]
    return (TensorType(result_type(call, types), (*first.shape[:axis], total, *first.shape[axis + 1 :])),)


def _tile(call: Call) -> tuple[TensorType, ...]:
    found, repeats = call.type(0), call.dims("repeats")
    if len(repeats) < found.rank:
        raise call.fail(f"repeats {_text(repeats)} has {len(repeats)} numbers, the operand has {found.rank} axes")
    for repeat in repeats:
        require_count(call, "one of repeats", repeat)
    padded = (1,) * (len(repeats) - found.rank) + found.shape
    return (found.with_shape(tuple(dim * repeat for dim, repeat in zip(padded, repeats, strict=True))),)


def _roll(call: Call) -> tuple[TensorType, ...]:
    axes, shifts = unique_axes(call, "axes", call.type(0).rank), call.dims("shifts")
    if len(axes) != len(shifts):
        raise call.fail(f"{len(shifts)} shifts for {len(axes)} axes")
    return (call.type(0),)


def _flip(call: Call) -> tuple[TensorType, ...]:
    unique_axes(call, "axes", call.type(0).rank)
    return (call.type(0),)


def _pad(call: Call) -> tuple[TensorType, ...]:
    found, pads, mode = call.type(0), pad_pairs(call.attrs["pads"]), call.text("mode")
    if len(pads) != found.rank:
        raise call.fail(f"{len(pads)} pairs in pads, the operand has {found.rank} axes", fix="one (low, high) pair per axis")
    shape: list[Dim] = []
    for axis, (dim, (low, high)) in enumerate(zip(found.shape, pads, strict=True)):
        size = dim + low + high
        cut = sum(pad for pad in (low, high) if isinstance(pad, int) and pad < 0)
        if (isinstance(size, int) and size < 0) or (isinstance(dim, int) and dim + cut < 0):
            raise call.fail(f"axis {axis} of size {dim} with pads ({low}, {high}) would get the size {size}")
        limit = {"reflect": dim - 1, "circular": dim}.get(mode)
        for pad in (low, high):
            if isinstance(limit, int) and isinstance(pad, int) and pad > limit and pad > 0:
                raise call.fail(f"{mode} pad {pad} on axis {axis} of size {dim}, needs at most {limit}")
        shape.append(size)
    return (found.with_shape(tuple(shape)),)


def pad_pairs(value: Attribute) -> tuple[tuple[Dim, Dim], ...]:
    """The attribute `pads` as pairs; its kind was checked before."""
    pairs_: list[tuple[Dim, Dim]] = []
    for pair in value if isinstance(value, tuple) else ():
        match pair:
            case (int() | Expression() as low, int() | Expression() as high):
                pairs_.append((low, high))
            case _:
                continue
    return tuple(pairs_)


def _triangle(call: Call) -> tuple[TensorType, ...]:
    if call.type(0).rank < 2:
        raise call.fail(f"the operand has {call.type(0).rank} axes, needs at least 2")
    return (call.type(0),)


def _add(name: str, infer: Infer, rule: AxisRule, summary: str, operands: str = "x", *, view: bool = False, **kinds: Kind) -> None:
    register(OpDef(name, "shape", tuple(operands.split()), infer, zero, summary, kinds=kinds, view=view, axes=rule))


_add("reshape", _reshape, reshape_axes, "same elements in the same order, another shape", view=True, shape=DIMS)
_add("permute", _permute, permute_axes, "axis i of the result is axis axes[i] of x", axes=INTS)
_add("expand", _expand, expand_axes, "repeat axes of size 1; new axes come first", shape=DIMS)
_add("slice", _slice, slice_axes, "every step-th element of start to stop along an axis", axis=AXIS, start=DIM, stop=DIM, step=AXIS)
_add("select", _select, select_axes, "one element along an axis; the axis goes", axis=AXIS, index=DIM)
_add("split", _split, split_axes, "consecutive pieces along an axis, one result each", axis=AXIS, sizes=DIMS)
_add("concat", _concat, concat_axes, "tensors one after the other along an axis", "*xs", axis=AXIS)
_add("tile", _tile, tile_axes, "the whole tensor repeated along each axis; new axes come first", repeats=DIMS)
_add("roll", _roll, roll_axes, "elements moved along axes, wrapping around", shifts=DIMS, axes=INTS)
_add("flip", _flip, flip_axes, "order reversed along axes", axes=INTS)
_add(
    "pad",
    _pad,
    pad_axes,
    "add elements at the ends of each axis, or take away where a pad is negative",
    pads=pairs(),
    mode=choice("constant", "reflect", "replicate", "circular"),
    value=SCALAR,
)
_add("tril", _triangle, triangle_axes, "zero above a diagonal of the last two axes", diagonal=DIM)
_add("triu", _triangle, triangle_axes, "zero below a diagonal of the last two axes", diagonal=DIM)
