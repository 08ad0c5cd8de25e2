"""Reductions, running sums, sorting.

ONNX Runtime's ReduceMax, ArgMax and their opposites may overlook a NaN that is not the first element; with
the option `strict_nan` two more nodes put it back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.backends.onnxruntime.emit.integers import exact_product, exact_sum
from graphopt.ir.dims import Dim, product
from graphopt.ir.graph import Node
from graphopt.ir.types import DType
from graphopt.ops import call_of

__all__ = ["EMITTERS"]


def _reduce(context: Context, node: Node, op: str, x: str, *, keepdims: bool | None = None) -> str:
    """One reduction over the node's axes; nothing to do for a tensor without axes."""
    axes = call_of(node).integers("axes")
    keep = bool(node.attrs["keepdims"]) if keepdims is None else keepdims
    if not axes:
        return x
    return context.add(op, x, context.integers(axes), keepdims=int(keep))


def _plain(op: str) -> Emitter:
    return lambda context, node: _reduce(context, node, op, context.read(node.operands[0], context.target(node)))


def _sum(context: Context, node: Node) -> str:
    x = context.read(node.operands[0], context.target(node))
    return _reduce(context, node, "ReduceSum", x) if context.target(node).is_float else exact_sum(context, node, x)


def _prod(context: Context, node: Node) -> str:
    x = context.read(node.operands[0], context.target(node))
    return _reduce(context, node, "ReduceProd", x) if context.target(node).is_float else exact_product(context, node, x)


def _mean(context: Context, node: Node) -> str:
    x = context.read(node.operands[0], context.target(node))
    if _count(node) != 0:
        return _reduce(context, node, "ReduceMean", x)
    # The mean of nothing is 0 / 0; ONNX Runtime's ReduceMean says 0.
    return context.add("Div", _reduce(context, node, "ReduceSum", x), context.scalar(0.0, context.target(node)))


def _extremum(op: str) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        dtype = context.target(node)
        x = context.read(node.operands[0], dtype)
        if dtype is DType.boolean:
            return context.cast(_reduce(context, node, op, context.cast(x, dtype, DType.i32)), DType.i32, dtype)
        found = _reduce(context, node, op, x)
        if not (dtype.is_float and context.strict_nan):
            return found
        flags = context.cast(context.add("IsNaN", x), DType.boolean, dtype)
        any_nan = context.add("Greater", _reduce(context, node, "ReduceMax", flags), context.scalar(0, dtype))
        return context.add("Where", any_nan, context.scalar(math.nan, dtype), found)

    return emit


def _smallest(context: Context, node: Node, flags: str) -> str:
    return context.cast(_reduce(context, node, "ReduceMin", context.cast(flags, DType.boolean, DType.i32)), DType.i32, DType.boolean)


def _all(context: Context, node: Node) -> str:
    """Booleans as numbers 0 and 1: `all` is their smallest, and of nothing it is true."""
    found = _smallest(context, node, context.read(node.operands[0], DType.boolean))
    return context.cast(found, DType.boolean, context.target(node))


def _any(context: Context, node: Node) -> str:
    """The largest of 0 and 1; of nothing, where there is no largest, it is the opposite of `all` of the opposites."""
    flags = context.read(node.operands[0], DType.boolean)
    count = _count(node)
    if isinstance(count, int) and count:
        numbers = _reduce(context, node, "ReduceMax", context.cast(flags, DType.boolean, DType.i32))
        found = context.cast(numbers, DType.i32, DType.boolean)
    else:
        found = context.add("Not", _smallest(context, node, context.add("Not", flags)))
    return context.cast(found, DType.boolean, context.target(node))


def _count(node: Node) -> Dim:
    shape = node.value(0).shape
    return product(tuple(shape[axis] for axis in call_of(node).integers("axes")))


def _variance(context: Context, node: Node) -> str:
    dtype, correction, count = context.target(node), node.attrs["correction"], _count(node)
    if not isinstance(correction, int | float):
        raise UnsupportedNodeError(f"correction is {correction!r}, needs a number")
    x = context.read(node.operands[0], dtype)
    distance = context.add("Sub", x, _reduce(context, node, "ReduceMean", x, keepdims=True))
    if isinstance(count, int):
        divisor = context.scalar(max(float(count) - correction, 0.0), dtype)
    else:
        number = context.add("Sub", context.read(count, dtype), context.scalar(float(correction), dtype))
        divisor = context.add("Max", number, context.scalar(0.0, dtype))
    if not call_of(node).integers("axes"):
        return context.add("Div", context.add("Mul", distance, distance), divisor)
    return context.add("Div", _reduce(context, node, "ReduceSumSquare", distance), divisor)


def _deviation(context: Context, node: Node) -> str:
    return context.add("Sqrt", _variance(context, node))


def _vector_norm(context: Context, node: Node) -> str:
    dtype, order = context.target(node), node.attrs["ord"]
    if not isinstance(order, int | float):
        raise UnsupportedNodeError(f"ord is {order!r}, needs a number")
    x = context.read(node.operands[0], dtype)
    if not call_of(node).integers("axes") and order != 0:
        return context.add("Abs", x)
    if order in (1, 2):
        return _reduce(context, node, f"ReduceL{int(order)}", x)
    if math.isinf(order):
        return _reduce(context, node, "ReduceMax" if order > 0 else "ReduceMin", context.add("Abs", x))
    if order == 0:
        counted = context.add("Not", context.add("Equal", x, context.scalar(0, dtype)))
        return _reduce(context, node, "ReduceSum", context.cast(counted, DType.boolean, dtype))
    powers = context.add("Pow", context.add("Abs", x), context.scalar(float(order), dtype))
    return context.add("Pow", _reduce(context, node, "ReduceSum", powers), context.scalar(1.0 / order, dtype))


def _argument(op: str) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        operand, axis, keepdims = node.value(0), node.attrs["axis"], bool(node.attrs["keepdims"])
        x = context.read(operand)
        if not operand.type.rank:
            return context.scalar(0, DType.i64)
        if isinstance(axis, int):
            return _argument_along(context, op, x, context.dtype(operand), axis, keepdims=keepdims)
        flat = context.add("Reshape", x, context.integers([-1]))
        found = _argument_along(context, op, flat, context.dtype(operand), 0, keepdims=False)
        return context.add("Reshape", found, context.integers([1] * operand.type.rank)) if keepdims else found

    return emit


def _argument_along(context: Context, op: str, x: str, dtype: DType, axis: int, *, keepdims: bool) -> str:
    found = context.add(op, x, axis=axis, keepdims=int(keepdims))
    if not (dtype.is_float and context.strict_nan):
        return found
    flags = context.cast(context.add("IsNaN", x), DType.boolean, DType.i32)
    any_nan = context.cast(context.add("ReduceMax", flags, context.integers([axis]), keepdims=int(keepdims)), DType.i32, DType.boolean)
    return context.add("Where", any_nan, context.add("ArgMax", flags, axis=axis, keepdims=int(keepdims)), found)


def _cumsum(context: Context, node: Node) -> str:
    x = context.read(node.operands[0], context.target(node))
    if not node.value(0).type.rank:
        return x
    return context.add("CumSum", x, context.scalar(call_of(node).integer("axis"), DType.i64))


def _cumprod(context: Context, node: Node) -> str:
    raise UnsupportedNodeError("ONNX has no running product")


def _top(context: Context, node: Node, k: Dim, *, largest: bool, ordered: bool) -> Sequence[str]:
    x = node.value(0)
    name = context.read(x)
    if not x.type.rank:
        return [name, context.scalar(0, DType.i64)]
    axis = call_of(node).integer("axis")
    return context.add_many("TopK", (name, context.dims((k,))), 2, axis=axis, largest=int(largest), sorted=int(ordered))


def _topk(context: Context, node: Node) -> Sequence[str]:
    return _top(context, node, call_of(node).dim("k"), largest=bool(node.attrs["largest"]), ordered=bool(node.attrs["sorted"]))


def _sort(context: Context, node: Node) -> Sequence[str]:
    x, axis = node.value(0), call_of(node).integer("axis")
    size = x.shape[axis] if x.type.rank else 1
    if x.type.dtype is DType.boolean and x.type.rank:
        numbers = context.cast(context.name(x), DType.boolean, DType.i32)
        largest = int(bool(node.attrs["descending"]))
        values, indices = context.add_many("TopK", (numbers, context.dims((size,))), 2, axis=axis, largest=largest, sorted=1)
        return [context.cast(values, DType.i32, DType.boolean), indices]
    return _top(context, node, size, largest=bool(node.attrs["descending"]), ordered=True)


EMITTERS: dict[str, Emitter] = {
    "sum": _sum,
    "mean": _mean,
    "prod": _prod,
    "logsumexp": _plain("ReduceLogSumExp"),
    "amax": _extremum("ReduceMax"),
    "amin": _extremum("ReduceMin"),
    "any": _any,
    "all": _all,
    "var": _variance,
    "std": _deviation,
    "vector_norm": _vector_norm,
    "argmax": _argument("ArgMax"),
    "argmin": _argument("ArgMin"),
    "cumsum": _cumsum,
    "cumprod": _cumprod,
    "topk": _topk,
    "sort": _sort,
}
