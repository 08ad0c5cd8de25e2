"""Ops that make a tensor from nothing: constants where the shape is known, Range and Expand where not."""

from __future__ import annotations

import numpy as np

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.backends.onnxruntime.dtypes import numpy_dtype
from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Expression
from graphopt.ir.graph import Node
from graphopt.ir.types import DType
from graphopt.ops import call_of

__all__ = ["EMITTERS", "filled"]

_LARGEST_CONSTANT = 65536
"""Elements up to which a filled tensor is stored; beyond, it is expanded when the model runs."""


def filled(context: Context, value: str, shape: tuple[object, ...]) -> str:
    """A scalar expanded to a shape."""
    return context.add("Expand", value, context.dims(tuple(dim for dim in shape if isinstance(dim, int | Expression))))


def _full(context: Context, node: Node) -> str:
    dtype, shape, value = context.target(node), node.result.shape, node.attrs["value"]
    static = all(isinstance(dim, int) for dim in shape)
    if isinstance(value, Expression):
        return filled(context, context.read(value, dtype), shape)
    if not isinstance(value, int | float):
        raise UnsupportedNodeError(f"value is {value!r}, needs a number")
    scalar = context.scalar(value, dtype)
    if not shape:
        return scalar
    if static and node.result.type.elements <= _LARGEST_CONSTANT:  # pyright: ignore[reportOperatorIssue]  # static: an integer
        sizes = node.result.type.static_shape
        held = next(made for name, made in context.initializers.items() if name == scalar).array()
        return context.constant(np.full(sizes, held), dtype)
    return filled(context, scalar, shape)


def _arange(context: Context, node: Node) -> str:
    dtype = context.target(node)
    bounds = tuple(node.attrs[name] for name in ("start", "stop", "step"))
    if any(isinstance(bound, Expression) for bound in bounds):
        return context.add("Range", *(context.read(_scalar(bound), dtype) for bound in bounds))
    start, stop, step = (bound for bound in bounds if isinstance(bound, int | float))
    whole = all(isinstance(bound, int) for bound in (start, stop, step))
    count = node.result.type.static_shape[0]
    if whole:
        return context.constant(start + step * np.arange(count, dtype=np.int64), dtype)
    return context.constant((start + step * np.arange(count, dtype=np.float64)).astype(numpy_dtype(dtype)), dtype)


def _scalar(value: Attribute) -> bool | int | float | Expression:
    if not isinstance(value, bool | int | float | Expression):
        raise UnsupportedNodeError(f"{value!r} is no number")
    return value


def _eye(context: Context, node: Node) -> str:
    dtype = context.target(node)
    call = call_of(node)
    rows, columns = call.dim("rows"), call.dim("columns")
    if isinstance(rows, int) and isinstance(columns, int):
        return context.constant(np.eye(rows, columns), dtype)
    zero, one = context.scalar(0, DType.i64), context.scalar(1, DType.i64)
    down = context.unsqueeze(context.add("Range", zero, context.size(rows), one), 1)
    across = context.add("Range", zero, context.size(columns), one)
    return context.cast(context.add("Equal", down, across), DType.boolean, dtype)


def _linspace(context: Context, node: Node) -> str:
    dtype = context.target(node)
    start, stop, steps = node.attrs["start"], node.attrs["stop"], node.attrs["steps"]
    if not (isinstance(start, int | float) and isinstance(stop, int | float) and isinstance(steps, int)):
        raise UnsupportedNodeError("linspace with symbolic bounds")
    working = np.float64 if dtype is DType.f64 else np.float32
    step = working((stop - start) / (steps - 1)) if steps > 1 else working(0)
    index = np.arange(steps)
    # As torch does: counted from whichever end is nearer, so that both ends are hit exactly.
    values = np.where(index < (steps + 1) // 2, working(start) + step * index, working(stop) - step * (steps - 1 - index))
    return context.constant(values.astype(working), dtype)


EMITTERS: dict[str, Emitter] = {"full": _full, "arange": _arange, "eye": _eye, "linspace": _linspace}
