"""Normalisations at inference."""

from __future__ import annotations

import numpy as np

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.backends.onnxruntime.dtypes import numpy_dtype
from graphopt.backends.onnxruntime.emit.unary import number
from graphopt.ir.graph import Node, Operand, Value
from graphopt.ir.types import DType
from graphopt.ops import call_of

__all__ = ["EMITTERS"]


def _channels(node: Node, axis: int = 1) -> int:
    size = node.value(0).shape[axis]
    if not isinstance(size, int):
        raise UnsupportedNodeError(f"the number of channels {size} is symbolic")
    return size


def _vector(context: Context, operand: Operand, size: int, default: float, dtype: DType) -> str:
    """A scale or shift, or the vector that leaves things as they are."""
    return context.constant(np.full(size, default), dtype) if operand is None else context.read(operand, dtype)


def _uses_batch(node: Node) -> bool:
    return node.operands[3] is None or node.attrs["mode"] == "train"


def _batch_norm(context: Context, node: Node) -> str:
    dtype, channels = context.target(node), _channels(node)
    if _uses_batch(node):
        axes = [axis for axis in range(node.value(0).type.rank) if axis != 1]
        return _affine(context, node, _standardised(context, node, axes), channels)
    x, weight, bias, mean, variance = node.operands
    return context.add(
        "BatchNormalization",
        context.read(x),
        _vector(context, weight, channels, 1.0, dtype),
        _vector(context, bias, channels, 0.0, dtype),
        context.read(mean, dtype),
        context.read(variance, dtype),
        epsilon=number(node, "eps"),
    )


def _standardised(context: Context, node: Node, axes: list[int]) -> str:
    """(x - mean) / sqrt(variance + eps) over some axes."""
    dtype = context.target(node)
    x, over = context.read(node.operands[0]), context.integers(axes)
    distance = context.add("Sub", x, context.add("ReduceMean", x, over, keepdims=1))
    variance = context.add("ReduceMean", context.add("Mul", distance, distance), over, keepdims=1)
    deviation = context.add("Sqrt", context.add("Add", variance, context.scalar(number(node, "eps"), dtype)))
    return context.add("Div", distance, deviation)


def _affine(context: Context, node: Node, name: str, channels: int) -> str:
    """Scale and shift per channel of axis 1."""
    shape = (channels, *(1 for _ in range(node.value(0).type.rank - 2)))
    for op, operand in (("Mul", node.operands[1]), ("Add", node.operands[2])):
        if isinstance(operand, Value):
            name = context.add(op, name, context.shaped(operand, shape))
    return name


def _instance_norm(context: Context, node: Node) -> str:
    if not _uses_batch(node):
        return _batch_norm(context, node)
    dtype, channels = context.target(node), _channels(node)
    x, weight, bias = node.operands[:3]
    return context.add(
        "InstanceNormalization",
        context.read(x),
        _vector(context, weight, channels, 1.0, dtype),
        _vector(context, bias, channels, 0.0, dtype),
        epsilon=number(node, "eps"),
    )


def _group_norm(context: Context, node: Node) -> str:
    """An instance norm over groups: ONNX's GroupNormalization is run as 25 nodes, this as five."""
    dtype, channels, groups = context.target(node), _channels(node), call_of(node).integer("groups")
    x = node.value(0)
    if groups == channels and x.type.rank > 2:
        return _instance_norm_like(context, node, context.read(x), groups, node.operands[1], node.operands[2])
    grouped = context.add("Reshape", context.read(x), context.integers((0, groups, -1)))
    normal = context.add(
        "InstanceNormalization", grouped, context.ones(groups, dtype), context.zeros(groups, dtype), epsilon=number(node, "eps")
    )
    split = (x.shape[0], groups, -1)
    return _affine(context, node, context.reshape(normal, split, x.shape), channels)


def _instance_norm_like(context: Context, node: Node, x: str, size: int, weight: Operand, bias: Operand) -> str:
    dtype = context.target(node)
    scale, shift = _vector(context, weight, size, 1.0, dtype), _vector(context, bias, size, 0.0, dtype)
    return context.add("InstanceNormalization", x, scale, shift, epsilon=number(node, "eps"))


def _normalized_shape(node: Node) -> tuple[int, ...]:
    shape = call_of(node).dims("normalized_shape")
    if not all(isinstance(size, int) for size in shape):
        raise UnsupportedNodeError(f"normalized_shape {shape} is symbolic")
    return tuple(size for size in shape if isinstance(size, int))


def _layer_norm(context: Context, node: Node) -> str:
    dtype, shape = context.target(node), _normalized_shape(node)
    x, weight, bias = node.operands
    scale = context.constant(np.ones(shape), dtype) if weight is None else context.read(weight, dtype)
    shift = context.read(bias, dtype)
    return context.add("LayerNormalization", context.read(x), scale, shift, axis=-len(shape), epsilon=number(node, "eps"))


def _rms_norm(context: Context, node: Node) -> str:
    dtype, shape = context.target(node), _normalized_shape(node)
    x, weight = node.operands
    eps = node.attrs["eps"]
    if not isinstance(eps, int | float):
        eps = float(np.finfo(np.float64 if dtype is DType.f64 else np.float32).eps)
    scale = context.constant(np.ones(shape, numpy_dtype(dtype)), dtype) if weight is None else context.read(weight, dtype)
    return context.add("RMSNormalization", context.read(x), scale, axis=-len(shape), epsilon=float(eps))


def _softmax(op: str) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        x = context.read(node.operands[0])
        if node.value(0).type.rank:
            return context.add(op, x, axis=call_of(node).integer("axis"))
        return context.squeeze(context.add(op, context.unsqueeze(x, 0), axis=0), 0)

    return emit


def _weight_norm(context: Context, node: Node) -> str:
    v, g = node.value(0), node.value(1)
    axis = call_of(node).integer("axis")
    axes = [other for other in range(v.type.rank) if other != axis]
    norm = context.add("ReduceL2", context.read(v), context.integers(axes), keepdims=1)
    return context.add("Mul", context.read(v), context.add("Div", context.read(g), norm))


EMITTERS: dict[str, Emitter] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "softmax": _softmax("Softmax"),
    "log_softmax": _softmax("LogSoftmax"),
    "weight_norm": _weight_norm,
}
