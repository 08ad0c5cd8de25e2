"""Ops that take parts of a tensor or put parts together.

x[:, 1:-1]     ->  slice {axis=1, start=1, stop=15, step=1}     bounds are resolved, also symbolic ones
chunk, split   ->  split {axis, sizes}
unbind         ->  one select per result
stack          ->  reshapes and concat
"""

from __future__ import annotations

from graphopt.capture.context import Context, NotExpressible, TorchCall, handles
from graphopt.ir.dims import Dim, Expression, max_dim, min_dim
from graphopt.ir.graph import Value

__all__ = ["slice_bounds"]


def slice_bounds(call: TorchCall, size: Dim, result: Dim | None) -> tuple[Dim, Dim, int]:
    """Start, stop and step of a slice with 0 <= start <= stop <= size; `result` is the traced length."""
    step = call.integer("step")
    start = _bound(call.dim("start") if call.has("start") else 0, size)
    stop = _bound(call.dim("end") if call.has("end") else size, size)
    if isinstance(start, int) and isinstance(stop, int):
        return start, max(start, stop), step
    if step == 1 and result is not None:
        return start, start + result, 1
    return start, stop, step


def _bound(bound: Dim, size: Dim) -> Dim:
    """An end of a slice as an index from 0 to the size."""
    if bound == size:
        return size
    if isinstance(bound, Expression):
        return bound
    if isinstance(size, int):
        return min(max(bound + size if bound < 0 else bound, 0), size)
    if bound < 0:
        return size + bound
    return size if bound >= 2**62 else 0 if bound == 0 else min_dim(bound, size)


@handles("slice", "slice_copy")
def _slice(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    axis = call.axis("dim", x.type.rank)
    start, stop, step = slice_bounds(call, x.shape[axis], call.type.shape[axis])
    if (start, stop, step) == (0, x.shape[axis], 1):
        return x
    return context.emit("slice", x, axis=axis, start=start, stop=stop, step=step)


@handles("narrow", "narrow_copy")
def _narrow(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    axis = call.axis("dim", x.type.rank)
    start = _bound(call.dim("start"), x.shape[axis])
    return context.emit("slice", x, axis=axis, start=start, stop=start + call.dim("length"), step=1)


@handles("select", "select_copy")
def _select(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    axis = call.axis("dim", x.type.rank)
    return context.emit("select", x, axis=axis, index=_index(call, x.shape[axis]))


def _index(call: TorchCall, size: Dim) -> Dim:
    index = call.dim("index")
    return size + index if isinstance(index, int) and index < 0 else index


@handles("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes")
def _split(context: Context, call: TorchCall) -> tuple[Value, ...]:
    x = call.value("self")
    axis = call.axis("dim", x.type.rank)
    if len(call.types) == 1:
        return (x,)
    return context.emit_many("split", x, axis=axis, sizes=tuple(type_.shape[axis] for type_ in call.types))


@handles("unbind", "unbind_copy")
def _unbind(context: Context, call: TorchCall) -> tuple[Value | None, ...]:
    x = call.value("self")
    axis = call.axis("dim", x.type.rank)
    return tuple(context.emit("select", x, axis=axis, index=index) if index in call.used else None for index in range(len(call.types)))


@handles("cat", "concat", "concatenate")
def _cat(context: Context, call: TorchCall) -> Value:
    # torch lets an empty vector stand for nothing in a concatenation of tensors of any rank.
    tensors = [tensor for tensor in call.values("tensors") if tensor.shape != (0,) or call.type.rank == 1]
    tensors = [context.cast(tensor, call.type.dtype) for tensor in tensors]
    if len(tensors) == 1:
        return tensors[0]
    return context.emit("concat", *tensors, axis=call.axis("dim", call.type.rank))


@handles("stack")
def _stack(context: Context, call: TorchCall) -> Value:
    axis = call.axis("dim", call.type.rank)
    shape = call.type.shape
    tensors = [context.cast(tensor, call.type.dtype) for tensor in call.values("tensors")]
    wide = [context.reshape(tensor, (*shape[:axis], 1, *shape[axis + 1 :])) for tensor in tensors]
    return wide[0] if len(wide) == 1 else context.emit("concat", *wide, axis=axis)


@handles("slice_scatter")
def _slice_scatter(context: Context, call: TorchCall) -> Value:
    x, source = call.value("self"), context.cast(call.value("src"), call.type.dtype)
    axis = call.axis("dim", x.type.rank)
    start, stop, step = slice_bounds(call, x.shape[axis], source.shape[axis])
    return context.emit("slice_scatter", x, source, axis=axis, start=start, stop=stop, step=step)


@handles("select_scatter")
def _select_scatter(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    axis = call.axis("dim", x.type.rank)
    return context.emit("select_scatter", x, context.cast(call.value("src"), call.type.dtype), axis=axis, index=_index(call, x.shape[axis]))


@handles("diff")
def _diff(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    axis = call.axis("dim", x.type.rank)
    size = x.shape[axis]
    if call.integer("n") != 1 or call.has("prepend") or call.has("append") or x.type.dtype.kind == "bool":
        raise NotExpressible("only the first difference of numbers")
    last = max_dim(size - 1, 0) if isinstance(size, int) else size - 1
    upper = context.emit("slice", x, axis=axis, start=min(1, size) if isinstance(size, int) else 1, stop=size, step=1)
    return context.emit("sub", upper, context.emit("slice", x, axis=axis, start=0, stop=last, step=1))
