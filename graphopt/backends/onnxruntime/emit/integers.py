"""Exact integer arithmetic, where ONNX Runtime's kernels go by way of float64.

Its ReduceSum, ReduceProd and Pow of i64 round above 2**53 and stop at 2**63, where torch wraps around. Add,
Mul, CumSum and Gather are exact.
"""

from __future__ import annotations

import numpy as np

from graphopt.backends.onnxruntime.context import Context, UnsupportedNodeError
from graphopt.ir.graph import Node, Operand
from graphopt.ir.types import DType
from graphopt.ops import call_of

__all__ = ["exact_power", "exact_product", "exact_sum", "floor_quotient", "left_shift_factor"]

_NARROW = frozenset({DType.boolean, DType.i8, DType.u8, DType.i16, DType.u16})
"""Sums of these stay below 2**53 for any tensor that fits into memory."""

_MOST_FACTORS = 4096
_LARGEST_EXPONENT = 64


def exact_sum(context: Context, node: Node, x: str) -> str:
    """The sum over the node's axes: the last of each running sum."""
    operand, axes = node.value(0), call_of(node).integers("axes")
    keepdims = bool(node.attrs["keepdims"])
    if not axes:
        return x
    if operand.type.dtype in _NARROW:
        return context.add("ReduceSum", x, context.integers(axes), keepdims=int(keepdims))
    last = context.integers([-1]) if keepdims else context.scalar(-1, DType.i64)
    for axis in sorted(axes, reverse=True):  # the last first, so that the numbers of the others stay right
        size = operand.shape[axis]
        if not isinstance(size, int) or size == 0:
            # Behind one more zero there always is a last.
            zero = context.scalar(0, context.target(node))
            x = context.add("Pad", x, context.integers([0, 1]), zero, context.integers([axis]))
        x = context.add("Gather", context.add("CumSum", x, context.scalar(axis, DType.i64)), last, axis=axis)
    return x


def exact_product(context: Context, node: Node, x: str) -> str:
    """The product over the node's axes: halves of an axis multiplied until one element is left.

    Raises:
        UnsupportedNodeError: an axis is symbolic, or longer than 4096.
    """
    operand, axes = node.value(0), sorted(call_of(node).integers("axes"))
    for axis in axes:
        size = operand.shape[axis]
        if not isinstance(size, int) or size > _MOST_FACTORS:
            raise UnsupportedNodeError(f"a product of integers along an axis of size {size}, which ONNX Runtime rounds")
        if size == 0:
            # The product of nothing is 1: one more element, which is the only one.
            one = context.scalar(1, context.target(node))
            x, size = context.add("Pad", x, context.integers([0, 1]), one, context.integers([axis])), 1
        while size > 1:
            half = size // 2
            product = context.add("Mul", context.slice(x, axis, 0, half), context.slice(x, axis, half, 2 * half))
            rest = context.slice(x, axis, 2 * half, size) if size % 2 else None
            x, size = (product if rest is None else context.add("Concat", product, rest, axis=axis)), half + size % 2
    return context.squeeze(x, *axes) if axes and not node.attrs["keepdims"] else x


def exact_power(context: Context, x: str, exponent: Operand, dtype: DType) -> str:
    """x to a power that is a number, by squaring.

    Raises:
        UnsupportedNodeError: the exponent is computed, or above 64.
    """
    if not isinstance(exponent, int) or not 0 <= exponent <= _LARGEST_EXPONENT:
        raise UnsupportedNodeError(f"a power of integers with the exponent {exponent!r}, which ONNX Runtime rounds")
    result: str | None = None
    rest = int(exponent)
    while rest:
        if rest & 1:
            result = x if result is None else context.add("Mul", result, x)
        rest >>= 1
        if rest:
            x = context.add("Mul", x, x)
    # x to the power 0 is 1 in the shape of x; both kernels are exact there.
    return context.add("Pow", x, context.scalar(0, dtype)) if result is None else result


def floor_quotient(context: Context, a: str, b: str, dtype: DType) -> str:
    """a / b towards minus infinity: one less than the quotient towards zero where that leaves another remainder."""
    quotient = context.add("Div", a, b)
    back = context.add("Add", context.add("Mul", quotient, b), context.add("Mod", a, b))
    return context.add("Where", context.add("Equal", back, a), quotient, context.add("Sub", quotient, context.scalar(1, dtype)))


def left_shift_factor(context: Context, shift: str, dtype: DType, bits: int) -> str:
    """2 to the power `shift` out of a table; 0 where the shift is negative or beyond the width."""
    table = context.constant(np.array([wrapped_power(place, bits) for place in range(bits)] + [0]), dtype)
    beyond = context.add(
        "Or", context.add("Less", shift, context.scalar(0, dtype)), context.add("Greater", shift, context.scalar(bits, dtype))
    )
    place = context.add("Where", beyond, context.scalar(bits, dtype), shift)
    return context.add("Gather", table, context.cast(place, dtype, DType.i64), axis=0)


def wrapped_power(place: int, bits: int) -> int:
    """2**place as a signed integer of `bits` bits."""
    return -(1 << place) if place == bits - 1 else 1 << place
