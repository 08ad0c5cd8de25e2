"""Reductions, running sums, sorting.

x.sum()          ->  sum {axes=(0, 1), keepdims=false}    axes are always listed
x.max(dim=1)     ->  amax and argmax, each only where it is used
dtype argument   ->  a cast before
"""

from __future__ import annotations

from graphopt.capture.context import HANDLERS, Context, Handler, NotExpressible, TorchCall, handles
from graphopt.ir.graph import Value

__all__ = ["reduce_extremum"]


def _operand(context: Context, call: TorchCall) -> Value:
    """The reduced tensor, in the dtype in which it is reduced."""
    x = call.value("self")
    dtype = call.dtype()
    return x if dtype is None else context.cast(x, dtype)


def _narrow(context: Context, call: TorchCall, result: Value) -> Value:
    """Sums of integers are 64 bits wide; a narrower dtype that was asked for wraps around in the same way."""
    return context.cast(result, call.type.dtype) if call.type.dtype.kind == "int" and result.type.dtype.kind == "int" else result


def _reduction(op: str) -> Handler:
    def handler(context: Context, call: TorchCall) -> Value:
        x = _operand(context, call)
        return _narrow(context, call, context.emit(op, x, axes=call.axes("dim", x.type.rank), keepdims=call.flag("keepdim")))

    return handler


HANDLERS.update({name: _reduction(name) for name in ("sum", "mean", "prod", "amax", "amin", "any", "all", "logsumexp")})


@handles("var", "std")
def _var(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    return context.emit(call.name, x, axes=call.axes("dim", x.type.rank), keepdims=call.flag("keepdim"), correction=_correction(call))


def _correction(call: TorchCall) -> int | float:
    if "unbiased" in call.arguments:
        return 1 if call.flag("unbiased") else 0
    return call.number("correction") if call.has("correction") else 1


@handles("var_mean", "std_mean")
def _var_mean(context: Context, call: TorchCall) -> tuple[Value, Value]:
    x = call.value("self")
    axes, keep = call.axes("dim", x.type.rank), call.flag("keepdim")
    spread = context.emit(call.name[:3], x, axes=axes, keepdims=keep, correction=_correction(call))
    return spread, context.emit("mean", x, axes=axes, keepdims=keep)


@handles("linalg_vector_norm")
def _vector_norm(context: Context, call: TorchCall) -> Value:
    x = _operand(context, call)
    return context.emit("vector_norm", x, axes=call.axes("dim", x.type.rank), keepdims=call.flag("keepdim"), ord=call.number("ord"))


@handles("norm")
def _norm(context: Context, call: TorchCall) -> Value:
    x = _operand(context, call)
    order = call.number("p") if call.has("p") else 2
    return context.emit("vector_norm", x, axes=call.axes("dim", x.type.rank), keepdims=call.flag("keepdim"), ord=order)


def reduce_extremum(context: Context, call: TorchCall) -> Value | tuple[Value | None, Value | None]:
    """`max` and `min` over everything or along one axis."""
    x = call.value("self")
    op = "amax" if call.name == "max" else "amin"
    if "dim" not in call.arguments:
        return context.emit(op, x, axes=tuple(range(x.type.rank)), keepdims=False)
    axis, keep = call.axis("dim", x.type.rank), call.flag("keepdim")
    axes = (axis,) if x.type.rank else ()
    best = context.emit(op, x, axes=axes, keepdims=keep) if 0 in call.used else None
    where = context.emit("argmax" if call.name == "max" else "argmin", x, axis=axis, keepdims=keep) if 1 in call.used else None
    return best, where


@handles("argmax", "argmin")
def _argmax(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    axis = call.axis("dim", x.type.rank) if call.has("dim") else None
    return context.emit(call.name, x, axis=axis, keepdims=call.flag("keepdim"))


@handles("cumsum", "cumprod")
def _cumulative(context: Context, call: TorchCall) -> Value:
    x = _operand(context, call)
    return _narrow(context, call, context.emit(call.name, x, axis=call.axis("dim", x.type.rank)))


@handles("topk")
def _topk(context: Context, call: TorchCall) -> tuple[Value, ...]:
    x = call.value("self")
    return context.emit_many(
        "topk", x, k=call.dim("k"), axis=call.axis("dim", x.type.rank), largest=call.flag("largest"), sorted=call.flag("sorted")
    )


@handles("sort", "argsort")
def _sort(context: Context, call: TorchCall) -> Value | tuple[Value, ...]:
    x = call.value("self")
    results = context.emit_many(
        "sort", x, axis=call.axis("dim", x.type.rank), descending=call.flag("descending"), stable=call.flag("stable")
    )
    return results[1] if call.name == "argsort" else results


@handles("softmax", "log_softmax", "_softmax", "_log_softmax", "special_softmax", "special_log_softmax")
def _softmax(context: Context, call: TorchCall) -> Value:
    if call.flag("half_to_float"):
        raise NotExpressible("softmax with conversion from half")
    x = _operand(context, call)
    op = "log_softmax" if "log_softmax" in call.name else "softmax"
    return context.emit(op, x, axis=call.axis("dim", x.type.rank))
