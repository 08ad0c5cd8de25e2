"""Normalisations and softmax: family `norm`.

    %y: f32[b,64,56,56] = batch_norm(%x, %weight, %bias, %mean, %var) {eps=1e-05, mode="follow", momentum=0.1}

`mode` is "follow" (the module's train/eval), "train" or "eval".
"""

from __future__ import annotations

from graphopt.ir.dims import Dim
from graphopt.ir.types import TensorType
from graphopt.ops.axes.norm import (
    batch_norm_axes,
    group_norm_axes,
    instance_norm_axes,
    last_axes_norm_axes,
    softmax_axes,
    weight_norm_axes,
)
from graphopt.ops.checks import axis_of, known_different, require_float, require_shape
from graphopt.ops.flops import per_operand, per_result
from graphopt.ops.kinds import AXIS, DIMS, INT, NUMBER, Kind, choice, optional
from graphopt.ops.promotion import result_type
from graphopt.ops.registry import Call, FlopRule, OpDef, register

__all__ = ["MODE"]

MODE = choice("follow", "train", "eval")
"""How an op with a training behaviour decides: by the module's `train()`/`eval()`, or pinned."""


def _channels(call: Call, minimum_rank: int) -> TensorType:
    found = require_float(call)
    if found.rank < minimum_rank:
        raise call.fail(f"x has {found.rank} axes, needs at least {minimum_rank} (batch, channels, ...)")
    return found


def _per_channel(call: Call, minimum_rank: int) -> tuple[TensorType, ...]:
    """weight, bias, mean and var have one number per channel of axis 1."""
    found = _channels(call, minimum_rank)
    for index in range(1, len(call.operands)):
        require_shape(call, index, (found.shape[1],), "one number per channel of axis 1")
    return (found,)


def _batch_norm(call: Call) -> tuple[TensorType, ...]:
    if call.attrs["mode"] == "eval" and (call.operands[3] is None or call.operands[4] is None):
        raise call.fail('mode is "eval" without mean or var', fix='give both, or use mode "train"')
    return _per_channel(call, 2)


def _instance_norm(call: Call) -> tuple[TensorType, ...]:
    return _per_channel(call, 3)


def _group_norm(call: Call) -> tuple[TensorType, ...]:
    groups = call.integer("groups")
    (found,) = _per_channel(call, 2)
    channels = found.shape[1]
    if groups < 1 or (isinstance(channels, int) and channels % groups):
        raise call.fail(f"{groups} groups do not divide the {channels} channels of axis 1")
    return (found,)


def _last_axes(call: Call) -> TensorType:
    found, shape = require_float(call), call.dims("normalized_shape")
    tail = found.shape[found.rank - len(shape) :] if len(shape) <= found.rank else ()
    if not shape or len(tail) != len(shape) or any(known_different(a, b) for a, b in zip(tail, shape, strict=True)):
        wanted = ",".join(str(dim) for dim in shape)
        raise call.fail(f"normalized_shape is [{wanted}], x ends in [{','.join(str(dim) for dim in found.shape[-max(len(shape), 1) :])}]")
    for index in range(1, len(call.operands)):
        require_shape(call, index, shape, "normalized_shape")
    return found


def _layer_norm(call: Call) -> tuple[TensorType, ...]:
    return (_last_axes(call),)


def _rms_norm(call: Call) -> tuple[TensorType, ...]:
    found = _last_axes(call)
    return (found.with_dtype(result_type(call, call.operands)),)


def _softmax(call: Call) -> tuple[TensorType, ...]:
    found = require_float(call)
    axis_of(call, "axis", found.rank)
    return (found,)


def _weight_norm(call: Call) -> tuple[TensorType, ...]:
    direction, magnitude = require_float(call), call.type(1)
    axis = axis_of(call, "axis", direction.rank)
    wanted = tuple(dim if other == axis else 1 for other, dim in enumerate(direction.shape))
    require_shape(call, 1, wanted, "the size of v on axis, 1 elsewhere")
    del magnitude
    return (direction,)


def _batch_norm_flops(call: Call, results: tuple[TensorType, ...]) -> Dim:
    """By stored statistics one multiply-add; by those of the batch as `layer_norm`."""
    if call.attrs["mode"] == "train" or call.operands[3] is None:
        return _normalise_flops(5)(call, results)
    return 2 * results[0].elements


def _normalise_flops(count: int) -> FlopRule:
    """`count` per element for mean, variance and scaling (mean 1, difference 1, square and sum 2, scale 1;
    without a mean 3), and one each for weight and bias."""
    return lambda call, results: (count + sum(operand is not None for operand in call.operands[1:3])) * results[0].elements


_AFFINE = ("x", "weight?", "bias?")
_STATISTICS = (*_AFFINE, "mean?", "var?")
_BATCH: dict[str, Kind] = {"mode": MODE, "momentum": optional(NUMBER), "eps": NUMBER}

register(
    OpDef(
        "batch_norm",
        "norm",
        _STATISTICS,
        _batch_norm,
        _batch_norm_flops,
        "normalise each channel by stored or batch statistics",
        kinds=_BATCH,
        axes=batch_norm_axes,
    )
)
register(
    OpDef(
        "layer_norm",
        "norm",
        _AFFINE,
        _layer_norm,
        _normalise_flops(5),
        "normalise over the last axes",
        kinds={"normalized_shape": DIMS, "eps": NUMBER},
        axes=last_axes_norm_axes,
    )
)
register(
    OpDef(
        "group_norm",
        "norm",
        _AFFINE,
        _group_norm,
        _normalise_flops(5),
        "normalise over groups of channels",
        kinds={"groups": INT, "eps": NUMBER},
        axes=group_norm_axes,
    )
)
register(
    OpDef(
        "instance_norm",
        "norm",
        _STATISTICS,
        _instance_norm,
        _normalise_flops(5),
        "normalise each channel of each sample",
        kinds=_BATCH,
        axes=instance_norm_axes,
    )
)
register(
    OpDef(
        "rms_norm",
        "norm",
        ("x", "weight?"),
        _rms_norm,
        _normalise_flops(3),
        "divide by the root mean square of the last axes; eps none is the dtype's epsilon",
        kinds={"normalized_shape": DIMS, "eps": optional(NUMBER)},
        axes=last_axes_norm_axes,
    )
)
register(
    OpDef("softmax", "norm", ("x",), _softmax, per_result(5), "exp(x) / sum(exp(x)) along an axis", kinds={"axis": AXIS}, axes=softmax_axes)
)
register(OpDef("log_softmax", "norm", ("x",), _softmax, per_result(5), "log(softmax(x))", kinds={"axis": AXIS}, axes=softmax_axes))
register(
    OpDef(
        "weight_norm",
        "norm",
        ("v", "g"),
        _weight_norm,
        per_operand(3),
        "g * v / norm(v), the norm over all axes but one",
        kinds={"axis": AXIS},
        axes=weight_norm_axes,
    )
)
