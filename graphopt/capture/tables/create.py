"""Ops that make tensors from nothing: constants, ranges, and the in-place fills.

zeros_like(x), x.new_ones(...), x.fill_(v)   ->  full {shape, value, dtype}
empty(...)                                   ->  full with zeros: memory that nobody has written yet
"""

from __future__ import annotations

from graphopt.capture.context import Context, NotExpressible, TorchCall, handles
from graphopt.capture.tables.elementwise import typed_literal
from graphopt.ir.graph import Operand, Value

__all__: list[str] = []


def _full(context: Context, call: TorchCall, value: Operand) -> Value:
    dtype = call.type.dtype
    if isinstance(value, bool | int | float):
        value = typed_literal(value, dtype.kind)
        if dtype.is_float:
            value = float(value)
    elif isinstance(value, Value) or value is None:
        raise NotExpressible(f"{call.name} with a tensor")
    return context.emit("full", shape=call.type.shape, value=value, dtype=dtype)


@handles(
    "zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted", "zero"
)
def _zeros(context: Context, call: TorchCall) -> Value:
    return _full(context, call, 0)


@handles("ones", "ones_like", "new_ones")
def _ones(context: Context, call: TorchCall) -> Value:
    return _full(context, call, 1)


@handles("full", "full_like", "new_full")
def _full_value(context: Context, call: TorchCall) -> Value:
    return _full(context, call, call.operand("fill_value"))


@handles("scalar_tensor")
def _scalar_tensor(context: Context, call: TorchCall) -> Value:
    return _full(context, call, call.operand("s"))


@handles("fill")
def _fill(context: Context, call: TorchCall) -> Value:
    value = call.operand("value")
    if isinstance(value, Value) and value in call.scalars:
        value = call.scalars[value]
    if isinstance(value, Value):
        cast = context.cast(value, call.type.dtype)
        return cast if cast.shape == call.type.shape else context.emit("expand", cast, shape=call.type.shape)
    return _full(context, call, value)


@handles("copy")
def _copy(context: Context, call: TorchCall) -> Value:
    source = context.cast(call.value("src"), call.type.dtype)
    return source if source.shape == call.type.shape else context.emit("expand", source, shape=call.type.shape)


@handles("arange")
def _arange(context: Context, call: TorchCall) -> Value:
    start = call.operand("start") if call.has("start") else 0
    step = call.operand("step") if call.has("step") else 1
    stop = call.operand("end")
    for bound in (start, stop, step):
        if isinstance(bound, Value):
            raise NotExpressible("arange with a tensor")
    return context.emit("arange", start=start, stop=stop, step=step, dtype=call.type.dtype)  # pyright: ignore[reportArgumentType]  # no values


@handles("eye")
def _eye(context: Context, call: TorchCall) -> Value:
    rows = call.dim("n")
    return context.emit("eye", rows=rows, columns=call.dim("m") if call.has("m") else rows, dtype=call.type.dtype)


@handles("linspace")
def _linspace(context: Context, call: TorchCall) -> Value:
    start, stop = call.operand("start"), call.operand("end")
    if isinstance(start, Value) or isinstance(stop, Value):
        raise NotExpressible("linspace with a tensor")
    return context.emit("linspace", start=start, stop=stop, steps=call.dim("steps"), dtype=call.type.dtype)
