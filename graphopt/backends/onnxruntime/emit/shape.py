"""Ops that move or repeat elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.ir.dims import Dim, Expression
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType
from graphopt.ops import call_of

__all__ = ["EMITTERS"]

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _reshape(context: Context, node: Node) -> str:
    x = node.value(0)
    return context.reshape(context.read(x), x.shape, node.result.shape)


def _permute(context: Context, node: Node) -> str:
    x, axes = node.value(0), call_of(node).integers("axes")
    if axes == tuple(range(len(axes))):
        return context.read(x)
    if context.graph.state_of(x) is not None and context.dtype(x) is x.type.dtype:
        return context.state(x, permutation=axes)
    return context.add("Transpose", context.read(x), perm=axes)


def _expand(context: Context, node: Node) -> str:
    x = node.value(0)
    if x.shape == node.result.shape:
        return context.read(x)
    # A size of 1 keeps what is there: only axes that grow need a number.
    offset = node.result.type.rank - x.type.rank
    target: list[Dim] = []
    for axis, dim in enumerate(node.result.shape):
        same = axis >= offset and x.shape[axis - offset] == dim
        target.append(1 if same else dim)
    return context.add("Expand", context.read(x), context.dims(target))


def _slice(context: Context, node: Node) -> str:
    call = call_of(node)
    x, axis = node.value(0), call.integer("axis")
    stop = call.dim("stop")
    to_end = stop == x.shape[axis] and isinstance(stop, Expression)
    return context.slice(context.read(x), axis, call.dim("start"), None if to_end else stop, call.integer("step"))


def _select(context: Context, node: Node) -> str:
    call = call_of(node)
    return context.add("Gather", context.read(node.operands[0]), context.size(call.dim("index")), axis=call.integer("axis"))


def _split(context: Context, node: Node) -> Sequence[str]:
    call = call_of(node)
    axis, sizes = call.integer("axis"), call.dims("sizes")
    used = [index for index, result in enumerate(node.results) if result.use_count]
    if len(node.results) == 1 or len(used) == 1:
        # One part alone is a slice.
        start: Dim = 0
        for index in range(used[0] if used else 0):
            start = start + sizes[index]
        index = used[0] if used else 0
        part = context.slice(context.read(node.operands[0]), axis, start, start + sizes[index])
        return [part if position == index else "" for position in range(len(node.results))]
    return context.add_many("Split", (context.read(node.operands[0]), context.dims(sizes)), len(sizes), axis=axis)


def _concat(context: Context, node: Node) -> str:
    dtype = context.target(node)
    parts = [operand for operand in node.operands if not _is_legacy_empty(node, operand)]
    names = [context.read(operand, dtype) for operand in parts]
    return names[0] if len(names) == 1 else context.add("Concat", *names, axis=call_of(node).integer("axis"))


def _is_legacy_empty(node: Node, operand: object) -> bool:
    """torch.cat skips tensors of shape [0] among tensors of more axes."""
    return isinstance(operand, Value) and operand.shape == (0,) and node.result.type.rank > 1


def _tile(context: Context, node: Node) -> str:
    x, repeats = node.value(0), call_of(node).dims("repeats")
    name = context.read(x)
    if len(repeats) > x.type.rank:
        name = context.unsqueeze(name, *range(len(repeats) - x.type.rank))
    repeats = (*(1 for _ in range(x.type.rank - len(repeats))), *repeats)
    return context.add("Tile", name, context.dims(repeats))


def _roll(context: Context, node: Node) -> str:
    call = call_of(node)
    x, shifts, axes = node.value(0), call.dims("shifts"), call.integers("axes")
    name = context.read(x)
    if not axes:
        total = context.add("Reshape", name, context.integers([-1]))
        return context.reshape(_rolled(context, total, 0, x.type.elements, shifts[0]), (x.type.elements,), x.shape)
    for shift, axis in zip(shifts, axes, strict=True):
        name = _rolled(context, name, axis, x.shape[axis], shift)
    return name


def _rolled(context: Context, name: str, axis: int, size: Dim, shift: Dim) -> str:
    if isinstance(size, int) and isinstance(shift, int):
        shift = shift % size if size else 0
    if shift == 0:
        return name
    cut: Dim = size - shift if isinstance(shift, int) and isinstance(size, int) else -shift
    if not isinstance(cut, int) and not isinstance(shift, int):
        raise UnsupportedNodeError(f"roll by {shift}, a size known at run time alone")
    return context.add("Concat", context.slice(name, axis, cut, None), context.slice(name, axis, 0, cut), axis=axis)


def _flip(context: Context, node: Node) -> str:
    axes = call_of(node).integers("axes")
    if not axes:
        return context.read(node.operands[0])
    count = len(axes)
    lowest = np.iinfo(np.int64).min
    bounds = [context.integers([value] * count) for value in (-1, lowest)]
    return context.add("Slice", context.read(node.operands[0]), *bounds, context.integers(axes), context.integers([-1] * count))


def _pad(context: Context, node: Node) -> str:
    x, dtype = node.value(0), context.target(node)
    mode, value = node.attrs["mode"], node.attrs["value"]
    pairs = _pairs(node)
    name = context.read(x)
    if mode != "constant":
        name = _cropped(context, name, x.shape, pairs)
        pairs = [(_not_negative(low), _not_negative(high)) for low, high in pairs]
    if all(pair == (0, 0) for pair in pairs):
        return name
    pads = context.dims([*(pair[0] for pair in pairs), *(pair[1] for pair in pairs)])
    if mode != "constant":
        return context.add("Pad", name, pads, mode=_MODES[str(mode)])
    number = value if isinstance(value, int | float) else 0
    if dtype is DType.boolean:
        wide = context.add("Pad", context.cast(name, dtype, DType.i32), pads, context.scalar(int(number), DType.i32))
        return context.cast(wide, DType.i32, dtype)
    return context.add("Pad", name, pads, context.scalar(number, dtype)) if number else context.add("Pad", name, pads)


def _not_negative(amount: Dim) -> Dim:
    return max(amount, 0) if isinstance(amount, int) else amount


def _pairs(node: Node) -> list[tuple[Dim, Dim]]:
    pads = node.attrs["pads"]
    found: list[tuple[Dim, Dim]] = []
    for pair in pads if isinstance(pads, tuple) else ():
        if isinstance(pair, tuple) and isinstance(pair[0], int | Expression) and isinstance(pair[1], int | Expression):
            found.append((pair[0], pair[1]))
    return found


def _cropped(context: Context, name: str, shape: Sequence[Dim], pairs: Sequence[tuple[Dim, Dim]]) -> str:
    """Negative pads cut off first; what ONNX means by them is left open for modes other than constant."""
    for axis, (low, high) in enumerate(pairs):
        start = -low if isinstance(low, int) and low < 0 else 0
        cut = -high if isinstance(high, int) and high < 0 else 0
        if start or cut:
            name = context.slice(name, axis, start, shape[axis] - cut if cut else None)
    return name


def _triangle(*, upper: int) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        diagonal, dtype = call_of(node).dim("diagonal"), context.target(node)
        x = context.read(node.operands[0])
        if dtype is DType.boolean:
            wide = context.add("Trilu", context.cast(x, dtype, DType.i64), context.size(diagonal), upper=upper)
            return context.cast(wide, DType.i64, dtype)
        return context.add("Trilu", x, context.size(diagonal), upper=upper)

    return emit


EMITTERS: dict[str, Emitter] = {
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "select": _select,
    "split": _split,
    "concat": _concat,
    "tile": _tile,
    "roll": _roll,
    "flip": _flip,
    "pad": _pad,
    "tril": _triangle(upper=0),
    "triu": _triangle(upper=1),
}
