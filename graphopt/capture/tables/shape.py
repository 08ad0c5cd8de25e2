"""Ops that only change the shape or the order of axes.

view, flatten, squeeze, unsqueeze, ...   ->  reshape, with the traced shape
transpose, t, movedim, ...               ->  permute
expand, expand_as                        ->  expand
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.capture.context import Context, NotExpressible, TorchCall, handles
from graphopt.ir.dims import Dim, product
from graphopt.ir.graph import Value

__all__ = ["permute"]


@handles(
    "view",
    "reshape",
    "_unsafe_view",
    "_reshape_alias",
    "view_as",
    "reshape_as",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "ravel",
    "view_copy",
    "squeeze_copy",
    "unsqueeze_copy",
)
def _reshape(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    if x.type.dtype is not call.type.dtype:
        raise NotExpressible("view as another dtype")
    return context.reshape(x, call.type.shape)


def permute(context: Context, x: Value, axes: Sequence[int]) -> Value:
    """The value with its axes in another order; itself where that is the order it has."""
    return x if tuple(axes) == tuple(range(x.type.rank)) else context.emit("permute", x, axes=tuple(axes))


@handles("permute", "permute_copy")
def _permute(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    return permute(context, x, [axis % x.type.rank for axis in call.ints("dims")] if x.type.rank else ())


@handles("transpose", "swapaxes", "swapdims", "transpose_copy")
def _transpose(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    first, second = ("axis0", "axis1") if "axis0" in call.arguments else ("dim0", "dim1")
    return permute(context, x, _swapped(x.type.rank, call.axis(first, x.type.rank), call.axis(second, x.type.rank)))


@handles("t", "mT", "matrix_H", "adjoint", "mH")
def _matrix_transpose(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    if x.type.dtype.kind == "complex" and call.name not in ("t", "mT"):
        raise NotExpressible("conjugate transpose of a complex tensor")
    return permute(context, x, _swapped(x.type.rank, x.type.rank - 2, x.type.rank - 1) if x.type.rank >= 2 else range(x.type.rank))


@handles("numpy_T")
def _numpy_transpose(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    return permute(context, x, tuple(reversed(range(x.type.rank))))


@handles("movedim", "moveaxis")
def _movedim(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    rank = x.type.rank
    source = [axis % rank for axis in call.ints("source")]
    target = [axis % rank for axis in call.ints("destination")]
    placed = dict(zip(target, source, strict=True))
    rest = iter(axis for axis in range(rank) if axis not in source)
    return permute(context, x, [placed[axis] if axis in placed else next(rest) for axis in range(rank)])


def _swapped(rank: int, first: int, second: int) -> list[int]:
    order = list(range(rank))
    if order:
        order[first], order[second] = order[second], order[first]
    return order


@handles("expand", "expand_as", "broadcast_to", "expand_copy")
def _expand(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    return x if x.shape == call.type.shape else context.emit("expand", x, shape=call.type.shape)


@handles("repeat", "tile")
def _repeat(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    repeats = call.dims("repeats" if call.name == "repeat" else "dims")
    repeats = (1,) * (x.type.rank - len(repeats)) + repeats
    x = context.reshape(x, (1,) * (len(repeats) - x.type.rank) + x.shape)
    return x if all(count == 1 for count in repeats) else context.emit("tile", x, repeats=repeats)


@handles("repeat_interleave")
def _repeat_interleave(context: Context, call: TorchCall) -> Value:
    if call.overload != "self_int":
        raise NotExpressible("repeat_interleave by a tensor")
    x = call.value("self")
    if not call.has("dim"):
        x = context.reshape(x, (product(x.shape),))
    axis = call.axis("dim", x.type.rank) if call.has("dim") else 0
    before, after = x.shape[: axis + 1], x.shape[axis + 1 :]
    wide = context.emit("expand", context.reshape(x, (*before, 1, *after)), shape=(*before, call.dim("repeats"), *after))
    return context.reshape(wide, call.type.shape)


@handles("pixel_shuffle")
def _pixel_shuffle(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    factor = call.integer("upscale_factor")
    *lead, channels, height, width = x.shape
    split = context.reshape(x, (*lead, channels // (factor * factor), factor, factor, height, width))
    n = len(lead)
    mixed = permute(context, split, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return context.reshape(mixed, call.type.shape)


@handles("pixel_unshuffle")
def _pixel_unshuffle(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    factor = call.integer("downscale_factor")
    *lead, channels, height, width = x.shape
    split = context.reshape(x, (*lead, channels, height // factor, factor, width // factor, factor))
    n = len(lead)
    mixed = permute(context, split, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return context.reshape(mixed, call.type.shape)


@handles("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    groups = call.integer("groups")
    batch, channels, *rest = x.shape
    split = context.reshape(x, (batch, groups, channels // groups, *rest))
    mixed = permute(context, split, (0, 2, 1, *range(3, 3 + len(rest))))
    return context.reshape(mixed, x.shape)


@handles("meshgrid")
def _meshgrid(context: Context, call: TorchCall) -> tuple[Value, ...]:
    tensors = call.values("tensors")
    swap = len(tensors) >= 2 and call.arguments.get("indexing") == "xy"
    lengths: list[Dim] = [product(tensor.shape) for tensor in tensors]
    places = list(range(len(tensors)))
    if swap:
        places[0], places[1] = 1, 0
    full: list[Dim] = [0] * len(tensors)
    for place, length in zip(places, lengths, strict=True):
        full[place] = length
    results: list[Value] = []
    for tensor, place, length in zip(tensors, places, lengths, strict=True):
        shape: list[Dim] = [1] * len(tensors)
        shape[place] = length
        line = context.reshape(tensor, tuple(shape))
        results.append(line if line.shape == tuple(full) else context.emit("expand", line, shape=tuple(full)))
    return tuple(results)
