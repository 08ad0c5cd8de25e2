"""Convolutions.

padding="same"        ->  numbers; where left and right differ, pad and then conv
a single image        ->  reshape to a batch of one, conv, reshape back
aten.convolution      ->  conv2d or conv_transpose2d, by rank and its flag
"""

from __future__ import annotations

from graphopt.capture.context import Context, NotExpressible, TorchCall, handles
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Value

__all__: list[str] = []


def _spatial(call: TorchCall) -> int:
    return call.value("weight").type.rank - 2


def _batched(context: Context, x: Value, spatial: int) -> Value:
    return context.reshape(x, (1, *x.shape)) if x.type.rank == spatial + 1 else x


def _same_padding(call: TorchCall, spatial: int, dilation: tuple[int, ...]) -> list[tuple[int, int]]:
    if call.text("padding") == "valid":
        return [(0, 0)] * spatial
    pads: list[tuple[int, int]] = []
    for size, step in zip(call.value("weight").shape[2:], dilation, strict=True):
        if not isinstance(size, int):
            raise NotExpressible("a kernel of symbolic size")
        total = step * (size - 1)
        pads.append((total // 2, total - total // 2))
    return pads


@handles("conv1d", "conv2d", "conv3d")
def _conv(context: Context, call: TorchCall) -> Value:
    spatial = _spatial(call)
    x = _batched(context, call.value("input"), spatial)
    dilation = call.full("dilation", spatial)
    if isinstance(call.arguments.get("padding"), str):
        pads = _same_padding(call, spatial, dilation)
        padding = tuple(low for low, _ in pads)
        if any(low != high for low, high in pads):
            around: list[tuple[Dim, Dim]] = [(0, 0), (0, 0), *pads]
            x = context.emit("pad", x, pads=tuple(around), mode="constant", value=0)
            padding = (0,) * spatial
    else:
        padding = call.full("padding", spatial)
    result = context.emit(
        call.name,
        x,
        call.value("weight"),
        call.optional("bias"),
        stride=call.full("stride", spatial),
        padding=padding,
        dilation=dilation,
        groups=call.integer("groups"),
    )
    return context.reshape(result, call.type.shape) if result.type.rank != call.type.rank else result


@handles("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(context: Context, call: TorchCall) -> Value:
    return _transposed(context, call)


def _transposed(context: Context, call: TorchCall) -> Value:
    spatial = _spatial(call)
    result = context.emit(
        f"conv_transpose{spatial}d",
        _batched(context, call.value("input"), spatial),
        call.value("weight"),
        call.optional("bias"),
        stride=call.full("stride", spatial),
        padding=call.full("padding", spatial),
        output_padding=call.full("output_padding", spatial),
        dilation=call.full("dilation", spatial),
        groups=call.integer("groups"),
    )
    return context.reshape(result, call.type.shape) if result.type.rank != call.type.rank else result


@handles("convolution", "_convolution")
def _convolution(context: Context, call: TorchCall) -> Value:
    if call.flag("transposed"):
        return _transposed(context, call)
    spatial = _spatial(call)
    return context.emit(
        f"conv{spatial}d",
        call.value("input"),
        call.value("weight"),
        call.optional("bias"),
        stride=call.full("stride", spatial),
        padding=call.full("padding", spatial),
        dilation=call.full("dilation", spatial),
        groups=call.integer("groups"),
    )
