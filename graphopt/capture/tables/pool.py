"""Pooling. Where somebody reads the indices of a max pool, the call stays opaque."""

from __future__ import annotations

from graphopt.capture.context import Context, NotExpressible, TorchCall, handles
from graphopt.ir.graph import Value

__all__: list[str] = []


def _spatial(call: TorchCall) -> int:
    return int(next(character for character in call.name if character.isdigit()))


def _batched(context: Context, x: Value, spatial: int) -> Value:
    return context.reshape(x, (1, *x.shape)) if x.type.rank == spatial + 1 else x


def _unbatched(context: Context, result: Value, call: TorchCall) -> Value:
    return context.reshape(result, call.type.shape) if result.type.rank != call.type.rank else result


def _stride(call: TorchCall, spatial: int) -> tuple[int, ...]:
    return call.full("stride" if call.has("stride") and call.items("stride") else "kernel_size", spatial)


@handles("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices")
def _max_pool(context: Context, call: TorchCall) -> Value | tuple[Value, None]:
    if 1 in call.used:
        raise NotExpressible("the indices of a max pool are used")
    spatial = _spatial(call)
    result = context.emit(
        f"max_pool{spatial}d",
        _batched(context, call.value("self"), spatial),
        kernel=call.full("kernel_size", spatial),
        stride=_stride(call, spatial),
        padding=call.full("padding", spatial),
        dilation=call.full("dilation", spatial),
        ceil_mode=call.flag("ceil_mode"),
    )
    result = _unbatched(context, result, call)
    return (result, None) if call.name.endswith("_with_indices") else result


@handles("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(context: Context, call: TorchCall) -> Value:
    spatial = _spatial(call)
    result = context.emit(
        call.name,
        _batched(context, call.value("self"), spatial),
        kernel=call.full("kernel_size", spatial),
        stride=_stride(call, spatial),
        padding=call.full("padding", spatial),
        ceil_mode=call.flag("ceil_mode"),
        count_include_pad=call.flag("count_include_pad"),
        divisor_override=call.integer("divisor_override") if call.has("divisor_override") else None,
    )
    return _unbatched(context, result, call)


@handles("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def _adaptive_avg_pool(context: Context, call: TorchCall) -> Value:
    spatial = _spatial(call)
    x = _batched(context, call.value("self"), spatial)
    size = call.dims("output_size")
    result = context.emit(f"adaptive_avg_pool{spatial}d", x, output_size=size * spatial if len(size) == 1 else size)
    return _unbatched(context, result, call)


@handles("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(context: Context, call: TorchCall) -> tuple[Value, None]:
    if 1 in call.used:
        raise NotExpressible("the indices of a max pool are used")
    spatial = _spatial(call)
    x = _batched(context, call.value("self"), spatial)
    size = call.dims("output_size")
    result = context.emit(call.name, x, output_size=size * spatial if len(size) == 1 else size)
    return _unbatched(context, result, call), None
