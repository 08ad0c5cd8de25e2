"""Reductions, scans and sorting: family `reduce`.

    %y: f32[2,1,8] = mean(%x) {axes=(1,), keepdims=true}

`axes` lists every axis that is reduced; it is empty for tensors without axes alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from graphopt.ir.dims import Dim
from graphopt.ir.types import DType, TensorType
from graphopt.ops.axes.reduce import argument_axes, reduce_axes, scan_axes, sort_axes
from graphopt.ops.checks import axis_of, require_float, unique_axes
from graphopt.ops.flops import per_operand, zero
from graphopt.ops.kinds import AXIS, BOOL, DIM, INTS, NUMBER, Kind, optional
from graphopt.ops.promotion import floating
from graphopt.ops.registry import Call, FlopRule, Infer, OpDef, register

__all__: list[str] = []


def reduced_shape(call: Call) -> tuple[Dim, ...]:
    """Shape after reducing the attribute `axes`.

    Raises:
        TypeInferenceError: axes do not exist, or are empty for a tensor that has axes.
    """
    found = call.type(0)
    axes = unique_axes(call, "axes", found.rank)
    if found.rank and not axes:
        raise call.fail("axes is empty, needs every reduced axis", fix=f"name all axes: {tuple(range(found.rank))}")
    return _without(found.shape, axes, keepdims=bool(call.attrs["keepdims"]))


def _without(shape: tuple[Dim, ...], axes: tuple[int, ...], *, keepdims: bool) -> tuple[Dim, ...]:
    if keepdims:
        return tuple(1 if axis in axes else dim for axis, dim in enumerate(shape))
    return tuple(dim for axis, dim in enumerate(shape) if axis not in axes)


def _accumulated(dtype: DType) -> DType:
    """Sums of integers and booleans are i64."""
    return dtype if dtype.kind in ("float", "complex") else DType.i64


def _sum(call: Call) -> tuple[TensorType, ...]:
    return (TensorType(_accumulated(call.type(0).dtype), reduced_shape(call)),)


def _mean(call: Call) -> tuple[TensorType, ...]:
    return (TensorType(require_float(call).dtype, reduced_shape(call)),)


def _extremum(call: Call) -> tuple[TensorType, ...]:
    found = call.type(0)
    if found.dtype.kind == "complex":
        raise call.fail(f"operand 0 is {found.dtype.text}, complex numbers have no order")
    for axis in unique_axes(call, "axes", found.rank):
        if found.rank and found.shape[axis] == 0:
            raise call.fail(f"axis {axis} has the size 0, the largest of nothing is not defined")
    return (TensorType(found.dtype, reduced_shape(call)),)


def _truth(call: Call) -> tuple[TensorType, ...]:
    dtype = DType.u8 if call.type(0).dtype is DType.u8 else DType.boolean
    return (TensorType(dtype, reduced_shape(call)),)


def _real(call: Call) -> tuple[TensorType, ...]:
    found = require_float(call)
    real = {DType.c64: DType.f32, DType.c128: DType.f64}.get(found.dtype, found.dtype)
    return (TensorType(real, reduced_shape(call)),)


def _vector_norm(call: Call) -> tuple[TensorType, ...]:
    found, order = call.type(0), call.attrs["ord"]
    (result,) = _real(call)
    if isinstance(order, int | float) and (order < 0 or math.isinf(order)):
        for axis in call.integers("axes"):
            if found.rank and found.shape[axis] == 0:
                raise call.fail(f"axis {axis} has the size 0, the norm of order {order} of nothing is not defined")
    return (result,)


def _to_float(call: Call) -> tuple[TensorType, ...]:
    return (TensorType(floating(call.type(0).dtype), reduced_shape(call)),)


def _argument(call: Call) -> tuple[TensorType, ...]:
    found = call.type(0)
    if found.dtype.kind in ("complex", "bool"):
        raise call.fail(f"operand 0 is {found.dtype.text}, needs numbers with an order")
    axes = tuple(range(found.rank)) if call.attrs["axis"] is None else (axis_of(call, "axis", found.rank),)
    for axis in axes:
        if found.rank and found.shape[axis] == 0:
            raise call.fail(f"axis {axis} has the size 0, the largest of nothing is not defined")
    return (TensorType(DType.i64, _without(found.shape, axes, keepdims=bool(call.attrs["keepdims"]))),)


def _scan(call: Call) -> tuple[TensorType, ...]:
    found = call.type(0)
    axis_of(call, "axis", found.rank)
    return (found.with_dtype(_accumulated(found.dtype)),)


def _topk(call: Call) -> tuple[TensorType, ...]:
    found, k = call.type(0), call.dim("k")
    axis = axis_of(call, "axis", found.rank)
    size = found.shape[axis] if found.rank else 1
    rest = size - k
    if (isinstance(k, int) and k < 0) or (isinstance(rest, int) and rest < 0):
        raise call.fail(f"k is {k} on axis {axis} of size {size}, needs 0 <= k <= size")
    shape = (*found.shape[:axis], k, *found.shape[axis + 1 :]) if found.rank else ()
    return (found.with_shape(shape), TensorType(DType.i64, shape))


def _sort(call: Call) -> tuple[TensorType, ...]:
    found = call.type(0)
    axis_of(call, "axis", found.rank)
    return (found, TensorType(DType.i64, found.shape))


def _plus_results(count: int) -> FlopRule:
    """`count` per element of the operand and one more per element of the result."""
    return lambda call, results: count * call.type(0).elements + results[0].elements


_AXES: Mapping[str, Kind] = {"axes": INTS, "keepdims": BOOL}

_REDUCTIONS: tuple[tuple[str, Infer, FlopRule, Mapping[str, Kind], str], ...] = (
    ("sum", _sum, per_operand(1), {}, "sum; integers become i64"),
    ("mean", _mean, _plus_results(1), {}, "sum divided by the number of elements"),
    ("prod", _sum, per_operand(1), {}, "product; integers become i64"),
    ("amax", _extremum, per_operand(1), {}, "the largest; NaN where one is NaN"),
    ("amin", _extremum, per_operand(1), {}, "the smallest; NaN where one is NaN"),
    ("any", _truth, per_operand(1), {}, "true where one is not zero"),
    ("all", _truth, per_operand(1), {}, "true where none is zero"),
    ("var", _real, _plus_results(4), {"correction": NUMBER}, "squared distance from the mean, over n - correction"),
    ("std", _real, _plus_results(4), {"correction": NUMBER}, "square root of var"),
    ("vector_norm", _vector_norm, _plus_results(2), {"ord": NUMBER}, "(sum |x|^ord)^(1/ord); inf: the largest |x|"),
    ("logsumexp", _to_float, _plus_results(4), {}, "log(sum(exp(x))), without overflow"),
)

for _name, _infer, _flops, _kinds, _summary in _REDUCTIONS:
    register(OpDef(_name, "reduce", ("x",), _infer, _flops, _summary, kinds={**_kinds, **_AXES}, axes=reduce_axes))

_ARGUMENT: Mapping[str, Kind] = {"axis": optional(AXIS), "keepdims": BOOL}
register(
    OpDef(
        "argmax",
        "reduce",
        ("x",),
        _argument,
        per_operand(1),
        "index of the largest, of the flat tensor where axis is none",
        kinds=_ARGUMENT,
        axes=argument_axes,
    )
)
register(
    OpDef(
        "argmin",
        "reduce",
        ("x",),
        _argument,
        per_operand(1),
        "index of the smallest, of the flat tensor where axis is none",
        kinds=_ARGUMENT,
        axes=argument_axes,
    )
)
for _name, _summary in (("cumsum", "running sum"), ("cumprod", "running product")):
    _text = f"{_summary} along an axis; integers become i64"
    register(OpDef(_name, "reduce", ("x",), _scan, per_operand(1), _text, kinds={"axis": AXIS}, axes=scan_axes))
register(
    OpDef(
        "topk",
        "reduce",
        ("x",),
        _topk,
        zero,
        "the k largest or smallest along an axis -> values, indices",
        kinds={"k": DIM, "axis": AXIS, "largest": BOOL, "sorted": BOOL},
        axes=sort_axes,
    )
)
register(
    OpDef(
        "sort",
        "reduce",
        ("x",),
        _sort,
        zero,
        "sorted along an axis -> values, indices",
        kinds={"axis": AXIS, "descending": BOOL, "stable": BOOL},
        axes=sort_axes,
    )
)
