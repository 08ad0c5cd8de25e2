"""Convolutions: family `conv`.

    %y: f32[batch,64,112,112] = conv2d(%x, %weight, none) {dilation=(1, 1), groups=1, padding=(3, 3), stride=(2, 2)}

Operands are channels-first; the weight is `[out, in / groups, kernel...]`, for transposed ones
`[in, out / groups, kernel...]`. Padding is symmetric and of zeros: anything else is a `pad` before.
"""

from __future__ import annotations

from graphopt.ir.dims import Dim, product
from graphopt.ir.types import TensorType
from graphopt.ops.axes.conv import conv_axes
from graphopt.ops.checks import known_different, require_count, require_same_dtype, require_shape
from graphopt.ops.kinds import INT, ints
from graphopt.ops.registry import Call, OpDef, register
from graphopt.ops.windows import convolved, spatial_type, transposed

__all__: list[str] = []


def _checked(call: Call, spatial: int, input_axis: int) -> tuple[TensorType, TensorType, int]:
    """Operand, weight and channel axis, after the checks that both directions share."""
    found, weight = spatial_type(call, spatial), call.type(1)
    require_same_dtype(call)
    if weight.rank != spatial + 2:
        raise call.fail(f"weight has {weight.rank} axes, needs {spatial + 2}")
    groups = call.integer("groups")
    require_count(call, "groups", groups, minimum=1)
    for name in ("stride", "dilation"):
        for number in call.integers(name):
            require_count(call, name, number, minimum=1)
    for number in call.integers("padding"):
        require_count(call, "padding", number)
    channel_axis = found.rank - spatial - 1
    channels = found.shape[channel_axis]
    wanted = weight.shape[1] * groups if input_axis == 1 else weight.shape[0]
    if known_different(channels, wanted) or (isinstance(channels, int) and isinstance(wanted, int) and channels != wanted):
        raise call.fail(f"operand 0 has {channels} channels on axis {channel_axis}, the weight with {groups} groups needs {wanted}")
    leading = weight.shape[0]
    if isinstance(leading, int) and leading % groups:
        raise call.fail(f"axis 0 of the weight has {leading} channels, which {groups} groups do not divide")
    return found, weight, channel_axis


def _conv(call: Call, spatial: int) -> tuple[TensorType, ...]:
    found, weight, channel_axis = _checked(call, spatial, 1)
    require_shape(call, 2, (weight.shape[0],), "one number per output channel")
    stride, padding, dilation = call.integers("stride"), call.integers("padding"), call.integers("dilation")
    sizes = tuple(
        convolved(call, axis, found.shape[axis], weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i, axis in enumerate(range(channel_axis + 1, found.rank))
    )
    return (found.with_shape((*found.shape[:channel_axis], weight.shape[0], *sizes)),)


def _conv_transpose(call: Call, spatial: int) -> tuple[TensorType, ...]:
    found, weight, channel_axis = _checked(call, spatial, 0)
    channels = weight.shape[1] * call.integer("groups")
    require_shape(call, 2, (channels,), "one number per output channel")
    stride, padding, dilation = call.integers("stride"), call.integers("padding"), call.integers("dilation")
    extra = call.integers("output_padding")
    sizes = tuple(
        transposed(call, axis, found.shape[axis], weight.shape[2 + i], stride[i], padding[i], extra[i], dilation[i])
        for i, axis in enumerate(range(channel_axis + 1, found.rank))
    )
    return (found.with_shape((*found.shape[:channel_axis], channels, *sizes)),)


def _conv_flops(call: Call, results: tuple[TensorType, ...]) -> Dim:
    """Each result element is a sum of `in / groups * kernel` products."""
    return 2 * results[0].elements * product(call.type(1).shape[1:])


def _conv_transpose_flops(call: Call, results: tuple[TensorType, ...]) -> Dim:
    """Each operand element is spread over `out / groups * kernel` products."""
    return 2 * call.type(0).elements * product(call.type(1).shape[1:])


def _register(spatial: int) -> None:
    numbers = ints(spatial)
    operands = ("x", "weight", "bias?")
    shared = {"stride": numbers, "padding": numbers}
    tail = {"dilation": numbers, "groups": INT}
    register(
        OpDef(
            f"conv{spatial}d",
            "conv",
            operands,
            lambda call: _conv(call, spatial),
            _conv_flops,
            "convolution (cross-correlation)",
            kinds={**shared, **tail},
            axes=lambda call: conv_axes(call, spatial),
        )
    )
    register(
        OpDef(
            f"conv_transpose{spatial}d",
            "conv",
            operands,
            lambda call: _conv_transpose(call, spatial),
            _conv_transpose_flops,
            "transposed convolution: the gradient of a convolution by its operand",
            kinds={**shared, "output_padding": numbers, **tail},
            axes=lambda call: conv_axes(call, spatial, transposed=True),
        )
    )


for _spatial in (1, 2, 3):
    _register(_spatial)
