"""Element-wise ops of two tensors, and `where`. Operands are cast to torch's common dtype first."""

from __future__ import annotations

import math

from graphopt import ops
from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.backends.onnxruntime.dtypes import widened
from graphopt.backends.onnxruntime.emit.integers import exact_power, floor_quotient, left_shift_factor
from graphopt.backends.onnxruntime.emit.unary import truncated
from graphopt.ir.graph import Node, Operand
from graphopt.ir.types import DType
from graphopt.ops.promotion import result_type

__all__ = ["EMITTERS"]


def _both(context: Context, node: Node, dtype: DType) -> tuple[str, str]:
    return context.read(node.operands[0], dtype), context.read(node.operands[1], dtype)


def _arithmetic(op: str, logical: str | None = None) -> Emitter:
    """`logical` is what the op is on booleans."""

    def emit(context: Context, node: Node) -> str:
        dtype = context.target(node)
        name = logical if dtype is DType.boolean and logical else op
        return context.add(name, *_both(context, node, dtype))

    return emit


def _comparison(op: str, *, negate: bool = False) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        common = widened(result_type(ops.call_of(node), ops.call_of(node).operands), context.level)
        if common is DType.boolean and op != "Equal":
            common = DType.i32
        result = context.add(op, *_both(context, node, common))
        return context.add("Not", result) if negate else result

    return emit


def _logical(op: str) -> Emitter:
    return lambda context, node: context.add(op, *_both(context, node, DType.boolean))


def _bitwise(op: str, logical: str) -> Emitter:
    return _arithmetic(op, logical)


def _power(context: Context, node: Node) -> str:
    dtype = context.target(node)
    base, exponent = node.operands
    if dtype.is_float and exponent == 2:
        x = context.read(base, dtype)
        return context.add("Mul", x, x)
    if dtype.is_float and exponent == 0.5:
        return context.add("Sqrt", context.read(base, dtype))
    if dtype.is_float and exponent == -1:
        return context.add("Reciprocal", context.read(base, dtype))
    if not dtype.is_float:
        return exact_power(context, context.read(base, dtype), exponent, dtype)
    return context.add("Pow", *_both(context, node, dtype))


def _is_positive(operand: Operand) -> bool:
    return isinstance(operand, int | float) and 0 < operand < math.inf


def _float_remainder(context: Context, a: str, b: str, divisor: Operand, dtype: DType) -> str:
    """Remainder with the sign of the divisor: C's fmod, moved by one divisor where the signs differ."""
    zero = context.scalar(0, dtype)
    remainder = context.add("Mod", a, b, fmod=1)
    if _is_positive(divisor):
        wrong = context.add("Less", remainder, zero)
    else:
        other_sign = context.add("Xor", context.add("Less", remainder, zero), context.add("Less", b, zero))
        wrong = context.add("And", other_sign, context.add("Not", context.add("Equal", remainder, zero)))
    return context.add("Where", wrong, context.add("Add", remainder, b), remainder)


def _remainder(context: Context, node: Node) -> str:
    dtype = context.target(node)
    a, b = _both(context, node, dtype)
    return _float_remainder(context, a, b, node.operands[1], dtype) if dtype.is_float else context.add("Mod", a, b)


def _fmod(context: Context, node: Node) -> str:
    return context.add("Mod", *_both(context, node, context.target(node)), fmod=1)


def _divide(context: Context, node: Node) -> str:
    dtype, rounding = context.target(node), node.attrs["rounding"]
    a, b = _both(context, node, dtype)
    if rounding is None:
        return context.add("Div", a, b)
    if not dtype.is_float:
        if rounding == "trunc":
            return context.add("Div", a, b)
        return floor_quotient(context, a, b, dtype)
    if rounding == "trunc":
        return truncated(context, context.add("Div", a, b), dtype)
    return _floor_divide(context, a, b, node.operands[1], dtype)


def _floor_divide(context: Context, a: str, b: str, divisor: Operand, dtype: DType) -> str:
    """(a - remainder) / b is within rounding of a whole number: torch's floor division, where 1 // 0.1 is 9."""
    remainder = _float_remainder(context, a, b, divisor, dtype)
    whole = context.add("Round", context.add("Div", context.add("Sub", a, remainder), b))
    if _is_positive(divisor):
        return whole
    return context.add("Where", context.add("Equal", b, context.scalar(0, dtype)), context.add("Div", a, b), whole)


def _atan2(context: Context, node: Node) -> str:
    """atan(y / x), turned by pi where x is negative; the ratio of two zeros counts as y."""
    dtype = context.target(node)
    y, x = _both(context, node, dtype)
    zero = context.scalar(0, dtype)
    x_zero = context.add("Equal", x, zero)
    both_zero = context.add("And", context.add("Equal", y, zero), x_zero)
    ratio = context.add("Div", y, context.add("Where", x_zero, zero, x))  # above zero, also where x is -0.0
    angle = context.add("Atan", context.add("Where", both_zero, y, ratio))
    pi = context.scalar(math.pi, dtype)
    turn = context.add("Where", context.add("Less", y, zero), context.add("Neg", pi), pi)
    return context.add("Where", context.add("Less", x, zero), context.add("Add", angle, turn), angle)


def _left_shift(context: Context, node: Node) -> str:
    """A product with a power of two: ONNX shifts unsigned integers only. Beyond the width nothing is left."""
    dtype = context.target(node)
    a, shift = node.operands
    bits = node.result.type.dtype.bytes * 8
    if isinstance(shift, int):
        factor = context.scalar(1 << shift if 0 <= shift < bits else 0, dtype)
    else:
        factor = left_shift_factor(context, context.read(shift, dtype), dtype, bits)
    return context.add("Mul", context.read(a, dtype), factor)


def _right_shift(context: Context, node: Node) -> str:
    """A division by a power of two towards minus infinity. Beyond the width the sign alone is left."""
    dtype = context.target(node)
    a, shift = node.operands
    if not isinstance(shift, int):
        raise UnsupportedNodeError("a shift to the right by numbers that are computed")
    x, bits = context.read(a, dtype), node.result.type.dtype.bytes * 8
    if not 0 <= shift < bits - 1:
        negative = context.add("Less", x, context.scalar(0, dtype))
        return context.add("Where", negative, context.scalar(-1, dtype), context.scalar(0, dtype))
    divisor = context.scalar(1 << shift, dtype)
    return floor_quotient(context, x, divisor, dtype)


def _where(context: Context, node: Node) -> str:
    dtype = context.target(node)
    condition = context.read(node.operands[0], DType.boolean)
    a, b = context.read(node.operands[1], dtype), context.read(node.operands[2], dtype)
    if dtype is not DType.boolean:
        return context.add("Where", condition, a, b)
    return context.add("Or", context.add("And", condition, a), context.add("And", context.add("Not", condition), b))


EMITTERS: dict[str, Emitter] = {
    "add": _arithmetic("Add", "Or"),
    "sub": _arithmetic("Sub"),
    "mul": _arithmetic("Mul", "And"),
    "maximum": _arithmetic("Max", "Or"),
    "minimum": _arithmetic("Min", "And"),
    "pow": _power,
    "remainder": _remainder,
    "fmod": _fmod,
    "div": _divide,
    "atan2": _atan2,
    "eq": _comparison("Equal"),
    "ne": _comparison("Equal", negate=True),
    "lt": _comparison("Less"),
    "le": _comparison("LessOrEqual"),
    "gt": _comparison("Greater"),
    "ge": _comparison("GreaterOrEqual"),
    "logical_and": _logical("And"),
    "logical_or": _logical("Or"),
    "logical_xor": _logical("Xor"),
    "bitwise_and": _bitwise("BitwiseAnd", "And"),
    "bitwise_or": _bitwise("BitwiseOr", "Or"),
    "bitwise_xor": _bitwise("BitwiseXor", "Xor"),
    "bitwise_left_shift": _left_shift,
    "bitwise_right_shift": _right_shift,
    "where": _where,
}
