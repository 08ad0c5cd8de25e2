"""Element-wise ops of one tensor."""

from __future__ import annotations

import math

import numpy as np

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.backends.onnxruntime.dtypes import onnx_dtype
from graphopt.ir.graph import Node
from graphopt.ir.types import DType

__all__ = ["EMITTERS"]

_DIRECT = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hardswish": "HardSwish",
    "mish": "Mish",
    "softsign": "Softsign",
    "selu": "Selu",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "reciprocal": "Reciprocal",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "asinh": "Asinh",
    "acosh": "Acosh",
    "atanh": "Atanh",
    "erf": "Erf",
    "neg": "Neg",
    "abs": "Abs",
}


def number(node: Node, name: str) -> float:
    """Attribute `name`, which is a number.

    Raises:
        UnsupportedNodeError: it is no plain number.
    """
    value = node.attrs[name]
    if not isinstance(value, int | float):
        raise UnsupportedNodeError(f"{name} is {value!r}, needs a number")
    return float(value)


def operand(context: Context, node: Node) -> str:
    """The operand in the dtype of the result: integers become floats where the op needs them."""
    return context.read(node.operands[0], context.target(node))


def _direct(op: str) -> Emitter:
    return lambda context, node: context.add(op, operand(context, node))


def _relu(context: Context, node: Node) -> str:
    x, dtype = operand(context, node), context.target(node)
    return context.add("Relu", x) if dtype.is_float else context.add("Max", x, context.scalar(0, dtype))


def _rounding(op: str) -> Emitter:
    """floor, ceil and round keep integers as they are."""

    def emit(context: Context, node: Node) -> str:
        x = operand(context, node)
        return context.add(op, x) if context.target(node).is_float else x

    return emit


def truncated(context: Context, x: str, dtype: DType) -> str:
    """Rounded towards zero; keeps NaN and the sign of zero."""
    negative = context.add("Less", x, context.scalar(0, dtype))
    return context.add("Where", negative, context.add("Ceil", x), context.add("Floor", x))


def _trunc(context: Context, node: Node) -> str:
    x = operand(context, node)
    return truncated(context, x, context.target(node)) if context.target(node).is_float else x


def _frac(context: Context, node: Node) -> str:
    x = operand(context, node)
    return context.add("Sub", x, truncated(context, x, context.target(node)))


def _silu(context: Context, node: Node) -> str:
    x = operand(context, node)
    return context.add("Mul", x, context.add("Sigmoid", x))


def _hardsigmoid(context: Context, node: Node) -> str:
    return context.add("HardSigmoid", operand(context, node), alpha=1.0 / 6.0, beta=0.5)


def _log_sigmoid(context: Context, node: Node) -> str:
    x = context.add("Neg", operand(context, node))
    return context.add("Neg", context.add("Softplus", x))


def _sign(context: Context, node: Node) -> str:
    x, dtype = operand(context, node), context.target(node)
    if dtype is DType.boolean:
        return x
    if not dtype.is_float:
        return context.add("Sign", x)
    # torch gives 0 for NaN, ONNX Runtime gives NaN.
    zero = context.scalar(0, dtype)
    positive = context.cast(context.add("Greater", x, zero), DType.boolean, dtype)
    return context.add("Sub", positive, context.cast(context.add("Less", x, zero), DType.boolean, dtype))


def _exp2(context: Context, node: Node) -> str:
    return context.add("Pow", context.scalar(2.0, context.target(node)), operand(context, node))


def _expm1(context: Context, node: Node) -> str:
    """tanh(x / 2) * (exp(x) + 1), which does not cancel near 0 and has the right limits."""
    x, dtype = operand(context, node), context.target(node)
    half = context.add("Tanh", context.add("Mul", x, context.scalar(0.5, dtype)))
    return context.add("Mul", half, context.add("Add", context.add("Exp", x), context.scalar(1.0, dtype)))


def _log_scaled(scale: float) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        return context.add("Mul", context.add("Log", operand(context, node)), context.scalar(scale, context.target(node)))

    return emit


def _log1p(context: Context, node: Node) -> str:
    return context.add("Log", context.add("Add", operand(context, node), context.scalar(1.0, context.target(node))))


def _rsqrt(context: Context, node: Node) -> str:
    return context.add("Reciprocal", context.add("Sqrt", operand(context, node)))


def _square(context: Context, node: Node) -> str:
    x = operand(context, node)
    return context.add("Mul", x, x)


def _erfc(context: Context, node: Node) -> str:
    return context.add("Sub", context.scalar(1.0, context.target(node)), context.add("Erf", operand(context, node)))


def _is(op: str) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        x = node.value(0)
        if context.dtype(x).is_float:
            return context.add(op, context.read(x))
        shape = context.add("Shape", context.read(x))
        return context.add("Expand", context.constant(np.array(False), DType.boolean), shape)

    return emit


def _logical_not(context: Context, node: Node) -> str:
    return context.add("Not", context.read(node.operands[0], DType.boolean))


def _bitwise_not(context: Context, node: Node) -> str:
    return context.add("Not" if context.target(node) is DType.boolean else "BitwiseNot", operand(context, node))


def _gelu(context: Context, node: Node) -> str:
    approximate = node.attrs["approximate"]
    return context.add("Gelu", operand(context, node), approximate="tanh" if approximate == "tanh" else "none")


def _softplus(context: Context, node: Node) -> str:
    x, dtype = operand(context, node), context.target(node)
    beta, threshold = number(node, "beta"), number(node, "threshold")
    scaled = x if beta == 1 else context.add("Mul", x, context.scalar(beta, dtype))
    result = context.add("Softplus", scaled)
    if beta != 1:
        result = context.add("Mul", result, context.scalar(1.0 / beta, dtype))
    if threshold >= 15:  # beyond it softplus(x) and x are the same float32
        return result
    return context.add("Where", context.add("Greater", scaled, context.scalar(threshold, dtype)), x, result)


def _elu(context: Context, node: Node) -> str:
    x, dtype = operand(context, node), context.target(node)
    alpha, scale, input_scale = (number(node, name) for name in ("alpha", "scale", "input_scale"))
    if scale == 1 and input_scale == 1:
        return context.add("Elu", x, alpha=alpha)
    scaled = x if input_scale == 1 else context.add("Mul", x, context.scalar(input_scale, dtype))
    negative = context.add("Mul", context.add("Elu", scaled, alpha=1.0), context.scalar(alpha * scale, dtype))
    positive = context.add("Mul", x, context.scalar(scale, dtype))
    return context.add("Where", context.add("Greater", x, context.scalar(0, dtype)), positive, negative)


def _celu(context: Context, node: Node) -> str:
    return context.add("Celu", operand(context, node), alpha=number(node, "alpha"))


def _leaky_relu(context: Context, node: Node) -> str:
    return context.add("LeakyRelu", operand(context, node), alpha=number(node, "negative_slope"))


def _clamp(context: Context, node: Node) -> str:
    dtype = context.target(node)
    low, high = node.attrs["minimum"], node.attrs["maximum"]
    # A limit that Clip is not given is the largest finite number, which would change infinities.
    limits = [
        context.scalar(limit, dtype) if isinstance(limit, int | float) else context.scalar(infinity, dtype) if dtype.is_float else ""
        for limit, infinity in ((low, -math.inf), (high, math.inf))
    ]
    return context.add("Clip", operand(context, node), *limits)


def _hardshrink(context: Context, node: Node) -> str:
    x, dtype = operand(context, node), context.target(node)
    small = context.add("LessOrEqual", context.add("Abs", x), context.scalar(number(node, "lambd"), dtype))
    return context.add("Where", small, context.scalar(0, dtype), x)


def _softshrink(context: Context, node: Node) -> str:
    x, dtype, limit = operand(context, node), context.target(node), number(node, "lambd")
    return context.add("Sub", x, context.add("Clip", x, context.scalar(-limit, dtype), context.scalar(limit, dtype)))


def _threshold(context: Context, node: Node) -> str:
    x, dtype = operand(context, node), context.target(node)
    limit, value = node.attrs["threshold"], node.attrs["value"]
    if not (isinstance(limit, int | float) and isinstance(value, int | float)):
        raise UnsupportedNodeError("threshold with a symbolic limit or value")
    below = context.add("LessOrEqual", x, context.scalar(limit, dtype))  # integers stay integers: a float would round them
    return context.add("Where", below, context.scalar(value, dtype), x)


def _cast(context: Context, node: Node) -> str:
    x, dtype = node.value(0), context.target(node)
    if x.type.dtype.is_float and dtype in (DType.u8, DType.u16, DType.u32, DType.i8, DType.i16):
        # Out of range, C++ may do anything; by way of i64 it wraps around as torch does.
        return context.cast(context.add("Cast", context.name(x), to=onnx_dtype(DType.i64)), DType.i64, dtype)
    return context.read(x, dtype)


def _prelu(context: Context, node: Node) -> str:
    x, weight = node.value(0), node.value(1)
    size = weight.type.elements
    if not isinstance(size, int):
        raise UnsupportedNodeError("the slope has a symbolic size")
    shape = (size, *(1 for _ in range(x.type.rank - 2))) if x.type.rank > 1 else (size,)
    return context.add("PRelu", context.read(x), context.shaped(weight, shape))


EMITTERS: dict[str, Emitter] = {
    **{name: _direct(op) for name, op in _DIRECT.items()},
    "relu": _relu,
    "floor": _rounding("Floor"),
    "ceil": _rounding("Ceil"),
    "round": _rounding("Round"),
    "trunc": _trunc,
    "frac": _frac,
    "silu": _silu,
    "hardsigmoid": _hardsigmoid,
    "log_sigmoid": _log_sigmoid,
    "sign": _sign,
    "exp2": _exp2,
    "expm1": _expm1,
    "log2": _log_scaled(1.0 / math.log(2.0)),
    "log10": _log_scaled(1.0 / math.log(10.0)),
    "log1p": _log1p,
    "rsqrt": _rsqrt,
    "square": _square,
    "erfc": _erfc,
    "isnan": _is("IsNaN"),
    "isinf": _is("IsInf"),
    "logical_not": _logical_not,
    "bitwise_not": _bitwise_not,
    "gelu": _gelu,
    "softplus": _softplus,
    "elu": _elu,
    "celu": _celu,
    "leaky_relu": _leaky_relu,
    "clamp": _clamp,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
    "threshold": _threshold,
    "cast": _cast,
    "prelu": _prelu,
}
