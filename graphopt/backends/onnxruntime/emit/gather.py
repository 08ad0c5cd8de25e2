"""Ops that read or write at positions given by a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Operand, Value
from graphopt.ir.types import DType
from graphopt.ops import call_of

__all__ = ["EMITTERS"]


def _gather(context: Context, node: Node) -> str:
    axis = call_of(node).integer("axis")
    if not node.value(0).type.rank:
        return context.read(node.operands[0])
    index = context.read(node.operands[1], DType.i64)
    return context.add("GatherElements", context.read(node.operands[0]), index, axis=axis)


def _index_select(context: Context, node: Node) -> str:
    x, index = node.value(0), node.value(1)
    if not x.type.rank:
        return context.read(x)
    rows = context.read(index, DType.i64)
    if not index.type.rank:
        rows = context.unsqueeze(rows, 0)
    return context.add("Gather", context.read(x), rows, axis=call_of(node).integer("axis"))


def _embedding(context: Context, node: Node) -> str:
    indices = node.value(1)
    dtype = indices.type.dtype if indices.type.dtype is DType.i32 else DType.i64
    return context.add("Gather", context.read(node.operands[0]), context.read(indices, dtype), axis=0)


class _Picks:
    """The indices of an advanced indexing: which axes, in what order, and how the result is laid out."""

    def __init__(self, context: Context, x: Value, entries: Sequence[Operand]) -> None:
        self.values = {axis: entry for axis, entry in enumerate(entries) if isinstance(entry, Value)}
        self.axes = sorted(self.values)
        self.kept = [axis for axis in range(x.type.rank) if axis not in self.values]
        self.order = (*self.axes, *self.kept)
        together = self.axes == list(range(self.axes[0], self.axes[-1] + 1))
        self.before = len([axis for axis in self.kept if axis < self.axes[0]]) if together else 0
        self.block_rank = max(value.type.rank for value in self.values.values())
        self._context = context

    def block(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """Sizes of the indices, broadcast together, out of the shape of the result."""
        return tuple(shape[self.before : self.before + self.block_rank])

    def stacked(self, shape: Sequence[Dim]) -> str:
        """All indices as one i64[block..., axes]."""
        context, block = self._context, self.block(shape)
        parts: list[str] = []
        for axis in self.axes:
            value = self.values[axis]
            name = context.read(value, DType.i64)
            if len(self.axes) > 1 and value.shape != block:
                name = context.add("Expand", name, context.dims(block))
            parts.append(context.unsqueeze(name, self.block_rank))
        return parts[0] if len(parts) == 1 else context.add("Concat", *parts, axis=self.block_rank)

    def leading(self, name: str) -> str:
        """x with the indexed axes first."""
        return name if self.order == tuple(range(len(self.order))) else self._context.add("Transpose", name, perm=self.order)

    def restored(self, name: str) -> str:
        """What `leading` did, undone."""
        if self.order == tuple(range(len(self.order))):
            return name
        return self._context.add("Transpose", name, perm=tuple(int(axis) for axis in np.argsort(self.order)))

    def block_moved(self, name: str, rank: int, *, first: bool) -> str:
        """The axes of the block moved from their place in the result to the front, or back."""
        if not self.before:
            return name
        place = [*range(self.before, self.before + self.block_rank)]
        perm = [*place, *(axis for axis in range(rank) if axis not in place)]
        if not first:
            perm = [int(axis) for axis in np.argsort(perm)]
        return self._context.add("Transpose", name, perm=perm)


def _index(context: Context, node: Node) -> str:
    x = node.value(0)
    picks = _Picks(context, x, node.operands[1:])
    name = context.read(x)
    if len(picks.axes) == 1:
        (axis,) = picks.axes
        return context.add("Gather", name, context.read(picks.values[axis], DType.i64), axis=axis)
    found = context.add("GatherND", picks.leading(name), picks.stacked(node.result.shape))
    return picks.block_moved(found, node.result.type.rank, first=False)


def _scatter(context: Context, node: Node) -> str:
    x, index, source = node.value(0), node.value(1), node.operands[2]
    axis, dtype = call_of(node).integer("axis"), context.target(node)
    if not x.type.rank:
        raise UnsupportedNodeError("scatter into a tensor without axes")
    if index.type.elements == 0:
        return context.read(x)
    reduction = {None: "none", "add": "add", "multiply": "mul"}[node.attrs["reduce"]]  # pyright: ignore[reportArgumentType]  # one of three words
    name = context.read(source, dtype)
    if not isinstance(source, Value):
        name = context.add("Expand", name, context.dims(index.shape))
    else:
        for along, (have, want) in enumerate(zip(source.shape, index.shape, strict=True)):
            if have != want:
                name = context.slice(name, along, 0, want)
    return context.add("ScatterElements", context.read(x), context.read(index, DType.i64), name, axis=axis, reduction=reduction)


def _index_put(context: Context, node: Node) -> str:
    x, values, entries = node.value(0), node.operands[1], node.operands[2:]
    masks = [entry for entry in entries if isinstance(entry, Value) and entry.type.dtype in (DType.boolean, DType.u8)]
    if masks:
        return _put_mask(context, node, masks[0])
    picks = _Picks(context, x, entries)
    shape = _indexed_shape(picks, x)
    dtype = context.target(node)
    name = context.read(values, dtype)
    if not isinstance(values, Value) or values.shape != shape:
        name = context.add("Expand", name, context.dims(shape))
    name = picks.block_moved(name, len(shape), first=True)
    reduction = "add" if node.attrs["accumulate"] else "none"
    written = context.add("ScatterND", picks.leading(context.read(x)), picks.stacked(shape), name, reduction=reduction)
    return picks.restored(written)


def _indexed_shape(picks: _Picks, x: Value) -> tuple[Dim, ...]:
    block: list[Dim] = [1] * picks.block_rank
    for value in picks.values.values():
        offset = picks.block_rank - value.type.rank
        for axis, dim in enumerate(value.shape):
            if dim != 1:
                block[axis + offset] = dim
    kept = [x.shape[axis] for axis in picks.kept]
    return (*kept[: picks.before], *block, *kept[picks.before :])


def _put_mask(context: Context, node: Node, mask: Value) -> str:
    """Writing under a mask is `where`, as long as the values do not differ from place to place."""
    x, values, entries = node.value(0), node.operands[1], node.operands[2:]
    if node.attrs["accumulate"] or len([entry for entry in entries if entry is not None]) > 1:
        raise UnsupportedNodeError("index_put under a mask that accumulates or has further indices")
    if isinstance(values, Value) and values.type.elements != 1:
        raise UnsupportedNodeError(f"index_put under a mask of values {values.type.text}, whose places are known at run time alone")
    dtype = context.target(node)
    axis = next(index for index, entry in enumerate(entries) if entry is mask)
    behind = x.type.rank - axis - mask.type.rank
    condition = context.read(mask, DType.boolean)
    if behind:
        condition = context.unsqueeze(condition, *range(mask.type.rank, mask.type.rank + behind))
    value = context.read(values, dtype)
    if isinstance(values, Value) and values.type.rank:
        value = context.add("Reshape", value, context.integers([]))
    if dtype is DType.boolean:
        kept = context.add("And", context.add("Not", condition), context.read(x))
        return context.add("Or", context.add("And", condition, value), kept)
    return context.add("Where", condition, value, context.read(x))


def _replaced(context: Context, node: Node, axis: int, start: Dim, stop: Dim, source: str) -> str:
    x = node.value(0)
    name = context.read(x)
    parts: list[str] = []
    if start != 0:
        parts.append(context.slice(name, axis, 0, start))
    parts.append(source)
    if stop != x.shape[axis]:
        parts.append(context.slice(name, axis, stop, None))
    return source if len(parts) == 1 else context.add("Concat", *parts, axis=axis)


def _slice_scatter(context: Context, node: Node) -> str:
    call = call_of(node)
    axis, start, stop, step = call.integer("axis"), call.dim("start"), call.dim("stop"), call.integer("step")
    source = context.read(node.operands[1], context.target(node))
    if step == 1:
        return _replaced(context, node, axis, start, stop, source)
    if not (isinstance(start, int) and isinstance(stop, int)):
        raise UnsupportedNodeError(f"slice_scatter with step {step} and symbolic ends")
    x = node.value(0)
    order = (axis, *(other for other in range(x.type.rank) if other != axis))
    rows = context.constant(np.arange(start, stop, step).reshape(-1, 1), DType.i64)
    if axis == 0:
        return context.add("ScatterND", context.read(x), rows, source)
    moved = [context.add("Transpose", name, perm=order) for name in (context.read(x), source)]
    written = context.add("ScatterND", moved[0], rows, moved[1])
    return context.add("Transpose", written, perm=[int(place) for place in np.argsort(order)])


def _select_scatter(context: Context, node: Node) -> str:
    call = call_of(node)
    axis, index = call.integer("axis"), call.dim("index")
    source = context.unsqueeze(context.read(node.operands[1], context.target(node)), axis)
    return _replaced(context, node, axis, index, index + 1, source)


EMITTERS: dict[str, Emitter] = {
    "gather": _gather,
    "index_select": _index_select,
    "embedding": _embedding,
    "index": _index,
    "scatter": _scatter,
    "index_put": _index_put,
    "slice_scatter": _slice_scatter,
    "select_scatter": _select_scatter,
}
