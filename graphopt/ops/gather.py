"""Ops that read or write at computed positions: family `gather`.

    %y: f32[batch,16,768] = embedding(%weight, %tokens) {padding_idx=none}

Index tensors are i64 or i32. Boolean masks have results whose size depends on the numbers; such an
`index` stays opaque, `index_put` takes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.dims import Dim
from graphopt.ir.types import DType, TensorType
from graphopt.ops.axes.gather import (
    embedding_axes,
    gather_axes,
    index_axes,
    index_put_axes,
    index_select_axes,
    scatter_axes,
    slice_scatter_axes,
)
from graphopt.ops.broadcasting import broadcast_shapes, is_expandable
from graphopt.ops.checks import axis_of, known_different, require_dtype, require_same_dtype
from graphopt.ops.flops import zero
from graphopt.ops.kinds import AXIS, BOOL, DIM, INT, choice, optional
from graphopt.ops.registry import Call, OpDef, register
from graphopt.ops.shape import check_index, check_slice, with_axis

__all__: list[str] = []

_INDEX = (DType.i64, DType.i32)


def _check_index_shape(call: Call, found: TensorType, index: TensorType, axis: int) -> None:
    if max(index.rank, 1) != max(found.rank, 1):
        raise call.fail(f"index has {index.rank} axes, x has {found.rank}")
    if axis >= 0 and found.rank and found.shape[axis] == 0:
        raise call.fail(f"axis {axis} of x has the size 0, there is nothing to index")
    for other, (size, limit) in enumerate(zip(index.shape, found.shape, strict=False)):
        if other != axis and isinstance(size, int) and isinstance(limit, int) and size > limit:
            raise call.fail(f"index has the size {size} on axis {other}, x has only {limit}")


def _gather(call: Call) -> tuple[TensorType, ...]:
    found, index = call.type(0), require_dtype(call, 1, *_INDEX)
    axis = axis_of(call, "axis", found.rank)
    if index.elements != 0:
        _check_index_shape(call, found, index, axis)
    return (found.with_shape(index.shape),)


def _index_select(call: Call) -> tuple[TensorType, ...]:
    found, index = call.type(0), require_dtype(call, 1, *_INDEX)
    axis = axis_of(call, "axis", found.rank)
    if index.rank > 1:
        raise call.fail(f"index has {index.rank} axes, needs 0 or 1")
    if found.rank and found.shape[axis] == 0 and index.elements != 0:
        raise call.fail(f"axis {axis} of x has the size 0, there is nothing to index")
    if not found.rank and index.elements != 1:
        raise call.fail(f"index has {index.elements} elements, needs 1 for a tensor without axes")
    return (with_axis(found, axis, index.elements) if found.rank else found,)


def indexed_shape(call: Call, found: TensorType, indices: Sequence[TensorType | None]) -> tuple[Dim, ...]:
    """Shape of `x[indices]`: indices broadcast together; the result's axes take the place of the indexed
    ones when those are neighbours, else they come first (numpy's advanced indexing).

    Raises:
        TypeInferenceError: too many indices, or they do not broadcast.
    """
    if len(indices) > found.rank:
        raise call.fail(f"{len(indices)} indices, x has {found.rank} axes")
    used = [axis for axis, index in enumerate(indices) if index is not None]
    if not used:
        raise call.fail("all indices are none, needs at least one tensor")
    block = broadcast_shapes(call, [index.shape for index in indices if index is not None])
    kept = [axis for axis in range(found.rank) if axis not in used]
    together = used == list(range(used[0], used[-1] + 1))
    before = [axis for axis in kept if axis < used[0]] if together else []
    after = [axis for axis in kept if axis not in before]
    return (*(found.shape[axis] for axis in before), *block, *(found.shape[axis] for axis in after))


def _index(call: Call) -> tuple[TensorType, ...]:
    for position in range(1, len(call.operands)):
        if call.operands[position] is not None:
            require_dtype(call, position, *_INDEX)
    found = call.type(0)
    indices = [call.optional_type(position) for position in range(1, len(call.operands))]
    return (found.with_shape(indexed_shape(call, found, indices)),)


def _index_put(call: Call) -> tuple[TensorType, ...]:
    found, values = call.type(0), call.operands[1]
    indices = [call.optional_type(position) for position in range(2, len(call.operands))]
    if isinstance(values, TensorType) and values.dtype is not found.dtype:
        raise call.fail(f"x is {found.dtype.text}, values are {values.dtype.text}, needs the same", fix="cast the values")
    if any(index is not None and index.dtype in (DType.boolean, DType.u8) for index in indices):
        _check_masks(call, found, indices)
        return (found,)
    for position in range(2, len(call.operands)):
        if call.operands[position] is not None:
            require_dtype(call, position, *_INDEX)
    shape = indexed_shape(call, found, indices)
    if isinstance(values, TensorType) and not is_expandable(values.shape, shape):
        raise call.fail(f"values {values.text} do not broadcast to the {len(shape)} axes [{','.join(map(str, shape))}] that are written")
    return (found,)


def _check_masks(call: Call, found: TensorType, indices: Sequence[TensorType | None]) -> None:
    axis = 0
    for index in indices:
        if index is None or index.dtype not in (DType.boolean, DType.u8):
            axis += 1
            continue
        covered = found.shape[axis : axis + index.rank]
        if len(covered) != index.rank or any(known_different(a, b) for a, b in zip(covered, index.shape, strict=True)):
            raise call.fail(f"mask {index.text} does not fit axes {axis} to {axis + index.rank - 1} of {found.text}")
        axis += index.rank
    if axis > found.rank:
        raise call.fail(f"indices cover {axis} axes, x has {found.rank}")


def _embedding(call: Call) -> tuple[TensorType, ...]:
    weight, indices = call.type(0), require_dtype(call, 1, *_INDEX)
    if weight.rank != 2:
        raise call.fail(f"weight has {weight.rank} axes, needs 2 (rows, features)")
    return (weight.with_shape((*indices.shape, weight.shape[1])),)


def _scatter(call: Call) -> tuple[TensorType, ...]:
    found, index, source = call.type(0), require_dtype(call, 1, *_INDEX), call.operands[2]
    axis = axis_of(call, "axis", found.rank)
    if isinstance(source, TensorType) and source.dtype is not found.dtype:
        raise call.fail(f"x is {found.dtype.text}, source is {source.dtype.text}, needs the same", fix="cast the source")
    if index.elements != 0:
        _check_index_shape(call, found, index, axis)
        if isinstance(source, TensorType):
            _check_index_shape(call, source, index, -1)
    return (found,)


def _slice_scatter(call: Call) -> tuple[TensorType, ...]:
    found, source = call.type(0), call.type(1)
    axis, length = check_slice(call, found)
    _check_source(call, source, with_axis(found, axis, length))
    return (found,)


def _select_scatter(call: Call) -> tuple[TensorType, ...]:
    found, source = call.type(0), call.type(1)
    _check_source(call, source, with_axis(found, check_index(call, found)))
    return (found,)


def _check_source(call: Call, source: TensorType, place: TensorType) -> None:
    require_same_dtype(call)
    if source.rank != place.rank or any(known_different(a, b) for a, b in zip(source.shape, place.shape, strict=True)):
        raise call.fail(f"source is {source.text}, the place that is written is {place.text}")


_SLICE = {"axis": AXIS, "start": DIM, "stop": DIM, "step": AXIS}
_NUMBER = frozenset({"source"})

register(
    OpDef(
        "gather",
        "gather",
        ("x", "index"),
        _gather,
        zero,
        "x at index along an axis, position by position",
        kinds={"axis": AXIS},
        axes=gather_axes,
    )
)
register(
    OpDef(
        "index_select",
        "gather",
        ("x", "index"),
        _index_select,
        zero,
        "rows of x along an axis",
        kinds={"axis": AXIS},
        axes=index_select_axes,
    )
)
register(OpDef("index", "gather", ("x", "*indices?"), _index, zero, "x[indices], numpy's advanced indexing with integers", axes=index_axes))
register(
    OpDef(
        "embedding",
        "gather",
        ("weight", "indices"),
        _embedding,
        zero,
        "rows of a table; the row padding_idx gets no gradient",
        kinds={"padding_idx": optional(INT)},
        axes=embedding_axes,
    )
)
register(
    OpDef(
        "scatter",
        "gather",
        ("x", "index", "source"),
        _scatter,
        zero,
        "x with source written at index along an axis, or added, or multiplied",
        kinds={"axis": AXIS, "reduce": choice(None, "add", "multiply")},
        literals=_NUMBER,
        axes=scatter_axes,
    )
)
register(
    OpDef(
        "index_put",
        "gather",
        ("x", "values", "*indices?"),
        _index_put,
        zero,
        "x with x[indices] = values, or += where it accumulates",
        kinds={"accumulate": BOOL},
        literals=frozenset({"values"}),
        axes=index_put_axes,
    )
)
register(
    OpDef(
        "slice_scatter",
        "gather",
        ("x", "source"),
        _slice_scatter,
        zero,
        "x with a slice replaced by source",
        kinds=_SLICE,
        axes=slice_scatter_axes,
    )
)
register(
    OpDef(
        "select_scatter",
        "gather",
        ("x", "source"),
        _select_scatter,
        zero,
        "x with one element along an axis replaced",
        kinds={"axis": AXIS, "index": DIM},
        axes=slice_scatter_axes,
    )
)
