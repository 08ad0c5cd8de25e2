"""Ops that move elements: roll, flip, pad, triangles."""

from __future__ import annotations

from graphopt.capture.context import Context, TorchCall, handles
from graphopt.ir.dims import Dim, product
from graphopt.ir.graph import Value

__all__: list[str] = []


@handles("roll")
def _roll(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    shifts = call.dims("shifts")
    if not call.items("dims"):
        flat = context.reshape(x, (product(x.shape),))
        return context.reshape(context.emit("roll", flat, shifts=shifts, axes=(0,)), x.shape)
    return context.emit("roll", x, shifts=shifts, axes=call.axes("dims", x.type.rank))


@handles("flip")
def _flip(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    return context.emit("flip", x, axes=call.axes("dims", x.type.rank)) if call.items("dims") else x


@handles("fliplr", "flipud")
def _flip_matrix(context: Context, call: TorchCall) -> Value:
    return context.emit("flip", call.value("self"), axes=(1,) if call.name == "fliplr" else (0,))


@handles(
    "pad",
    "constant_pad_nd",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "_pad_circular",
)
def _pad(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    flat = call.dims("padding" if "padding" in call.arguments else "pad")
    pads: list[tuple[Dim, Dim]] = [(0, 0)] * x.type.rank
    for position in range(len(flat) // 2):
        pads[x.type.rank - 1 - position] = (flat[2 * position], flat[2 * position + 1])
    modes = {"constant_pad_nd": "constant", "_pad_circular": "circular"}
    prefix = {"ref": "reflect", "rep": "replicate"}
    mode = call.text("mode") if call.name == "pad" else modes.get(call.name) or prefix[call.name[:3]]
    value = call.number("value") if call.has("value") else 0
    return context.emit("pad", x, pads=tuple(pads), mode=mode, value=value if mode == "constant" else 0)


@handles("tril", "triu")
def _triangle(context: Context, call: TorchCall) -> Value:
    return context.emit(call.name, call.value("self"), diagonal=call.dim("diagonal"))
