"""Torch ops outside the op table that have a form in ONNX all the same.

An opaque node has its arguments as attributes, `Ref(i)` in place of operand i.
"""

from __future__ import annotations

import numpy as np

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.ir.attributes import Ref
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType

__all__ = ["OPAQUE"]


def _whole(node: Node, name: str, default: int) -> int:
    value = node.attrs.get(name, default)
    if type(value) is not int:
        raise UnsupportedNodeError(f"{node.op}: {name} is {value!r}, needs an integer")
    return value


def _only(node: Node, *names: str) -> Value:
    """The only operand; other arguments than `names` may not be given."""
    further = {name for name, value in node.attrs.items() if value is not None} - {"self", *names}
    if len(node.operands) != 1 or further:
        raise UnsupportedNodeError(f"{node.op} with {', '.join(sorted(further)) or 'further operands'} has no form in ONNX")
    return node.value(0)


def _difference(context: Context, node: Node) -> str:
    """x[1:] - x[:-1], `n` times, after something was put before x or behind it."""
    x = node.value(0)
    if x.type.dtype is DType.boolean or not x.type.rank:
        raise UnsupportedNodeError(f"the difference of {x.type.text} has no form in ONNX")
    axis = _whole(node, "dim", -1) % x.type.rank
    order = (node.attrs.get("prepend"), node.attrs.get("self"), node.attrs.get("append"))
    parts = [context.read(node.value(place.index), context.target(node)) for place in order if isinstance(place, Ref)]
    name = parts[0] if len(parts) == 1 else context.add("Concat", *parts, axis=axis)
    for _ in range(_whole(node, "n", 1)):
        name = context.add("Sub", context.slice(name, axis, 1, None), context.slice(name, axis, 0, -1))
    return name


def _one_hot(context: Context, node: Node) -> str:
    x = _only(node, "num_classes")
    classes = node.result.shape[-1]
    if not isinstance(classes, int):
        raise UnsupportedNodeError("one_hot whose number of classes follows from the data")
    rows = context.unsqueeze(context.read(x, DType.i64), x.type.rank)
    equal = context.add("Equal", rows, context.constant(np.arange(classes), DType.i64))
    return context.cast(equal, DType.boolean, context.target(node))


def _unfold(context: Context, node: Node) -> str:
    """Sliding windows along one axis, gathered; the window becomes the last axis."""
    x = _only(node, "dimension", "size", "step")
    axis = _whole(node, "dimension", 0) % max(x.type.rank, 1)
    size, step, length = _whole(node, "size", 1), _whole(node, "step", 1), x.shape[axis] if x.type.rank else 1
    if not isinstance(length, int) or not x.type.rank:
        raise UnsupportedNodeError(f"unfold along an axis of size {length}")
    starts = np.arange(0, length - size + 1, step)
    positions = starts[:, None] + np.arange(size)[None]
    windows = context.add("Gather", context.read(x), context.constant(positions, DType.i64), axis=axis)
    rank = x.type.rank + 1
    order = [*(place for place in range(rank) if place != axis + 1), axis + 1]
    return windows if order == list(range(rank)) else context.add("Transpose", windows, perm=order)


OPAQUE: dict[str, Emitter] = {
    "aten.diff.default": _difference,
    "aten.one_hot.default": _one_hot,
    "aten.unfold.default": _unfold,
}
"""Emitters by opaque op."""
