"""Ops that read or write at computed places: indexing, embedding, scatter."""

from __future__ import annotations

from graphopt.capture.context import Context, NotExpressible, TorchCall, handles
from graphopt.ir.graph import Operand, Value

__all__: list[str] = []


@handles("gather")
def _gather(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    return context.emit("gather", x, call.value("index"), axis=call.axis("dim", x.type.rank))


@handles("index_select")
def _index_select(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    return context.emit("index_select", x, call.value("index"), axis=call.axis("dim", x.type.rank))


def _indices(call: TorchCall) -> tuple[Operand, ...]:
    indices: list[Operand] = []
    for item in call.items("indices"):
        if item is not None and not isinstance(item, Value):
            raise NotExpressible(f"index {item!r}")
        indices.append(item)
    while indices and indices[-1] is None:
        indices.pop()
    return tuple(indices)


@handles("index")
def _index(context: Context, call: TorchCall) -> Value:
    return context.emit("index", call.value("self"), *_indices(call))


@handles("index_put")
def _index_put(context: Context, call: TorchCall) -> Value:
    values = context.cast(call.value("values"), call.type.dtype)
    return context.emit("index_put", call.value("self"), values, *_indices(call), accumulate=call.flag("accumulate"))


@handles("embedding")
def _embedding(context: Context, call: TorchCall) -> Value:
    padding = call.integer("padding_idx")
    return context.emit("embedding", call.value("weight"), call.value("indices"), padding_idx=None if padding < 0 else padding)


@handles("scatter", "scatter_add")
def _scatter(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    source = call.operand("value" if "value" in call.arguments else "src")
    if isinstance(source, Value):
        source = context.cast(source, call.type.dtype)
    reduce = "add" if call.name == "scatter_add" else call.text("reduce") if call.has("reduce") else None
    return context.emit("scatter", x, call.value("index"), source, axis=call.axis("dim", x.type.rank), reduce=reduce)
