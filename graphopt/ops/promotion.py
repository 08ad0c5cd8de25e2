"""Dtype promotion by the rules of `torch.result_type`.

Operands fall into three classes: tensors with axes, 0-dim tensors, and Python numbers. Inside a class
dtypes are promoted along a lattice; a lower class only changes the result when its *category*
(bool < int < float < complex) is higher:

    f32[3] + f64[]  -> f32      i64[3] + f32[]  -> f32      u8[3] + 300  -> u8      i64[3] * 0.5  -> f32

A Python float or a symbolic dimension is a number: it counts as f32 and i64.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.ir.dims import Expression
from graphopt.ir.types import DType, TensorType
from graphopt.ops.registry import Call

__all__ = ["DEFAULT_FLOAT", "floating", "promote", "result_type"]

DEFAULT_FLOAT = DType.f32
"""What integers become in an op that computes in floating point; torch's default dtype."""

_RANK = {"bool": 0, "int": 1, "float": 2, "complex": 3}
_FLOAT8 = frozenset({DType.f8e4m3, DType.f8e5m2})
_WIDE_UNSIGNED = frozenset({DType.u16, DType.u32, DType.u64})
_INT_ORDER = (DType.i8, DType.i16, DType.i32, DType.i64)
_COMPLEX_OF = {DType.f32: DType.c64, DType.f64: DType.c128}
"""Complex numbers of a float's precision; torch has others, the IR has not."""


def promote(left: DType, right: DType) -> DType | None:
    """The smallest dtype that holds both, or None where torch has no such rule."""
    if left is right:
        return left
    if left in _FLOAT8 or right in _FLOAT8:
        return None
    low, high = sorted((left, right), key=lambda dtype: _RANK[dtype.kind])
    if high in _WIDE_UNSIGNED or (low in _WIDE_UNSIGNED and high.kind != "float"):
        return None
    if high.kind == "complex":
        return DType.c128 if DType.c128 in (low, high) or low is DType.f64 else DType.c64
    if high.kind == "float":
        return _promote_floats(low, high) if low.kind == "float" else high
    if low.kind == "bool":
        return high
    return _promote_ints(low, high)


def _promote_floats(left: DType, right: DType) -> DType:
    if left.bytes == right.bytes:
        return DType.f32  # f16 with bf16
    return left if left.bytes > right.bytes else right


def _promote_ints(left: DType, right: DType) -> DType:
    if DType.u8 in (left, right):
        signed = left if right is DType.u8 else right
        return DType.i16 if signed is DType.i8 else signed
    return max(left, right, key=_INT_ORDER.index)


def _combine(call: Call, higher: DType | None, lower: DType | None) -> DType | None:
    """The result of a higher class, raised to a lower class's category where that is higher."""
    if higher is None or lower is None:
        return higher or lower
    if higher.kind == "complex":
        return higher
    if higher.kind == "float":
        return _complex_of(call, higher, lower) if lower.kind == "complex" else higher
    if higher.kind == "bool" or lower.kind in ("float", "complex"):
        return lower if lower.kind == "complex" else _join(call, higher, lower)
    return higher


def _complex_of(call: Call, higher: DType, lower: DType) -> DType:
    found = _COMPLEX_OF.get(higher)
    if found is None:
        raise call.fail(f"dtypes {higher.text} and {lower.text} have no common dtype", fix="cast one operand")
    return found


def _join(call: Call, left: DType | None, right: DType) -> DType:
    if left is None:
        return right
    joined = promote(left, right)
    if joined is None:
        raise call.fail(f"dtypes {left.text} and {right.text} have no common dtype", fix="cast one operand")
    return joined


def result_type(call: Call, operands: Iterable[object]) -> DType:
    """Common dtype of tensor types and numbers, by torch's rules; other operands (None) are skipped.

    Raises:
        TypeInferenceError: two dtypes have no common one, or there is no operand at all.
    """
    with_axes: DType | None = None
    without_axes: DType | None = None
    number: DType | None = None
    for operand in operands:
        match operand:
            case TensorType():
                if operand.shape:
                    with_axes = _join(call, with_axes, operand.dtype)
                else:
                    without_axes = _join(call, without_axes, operand.dtype)
            case bool():
                number = _join(call, number, DType.boolean)
            case int() | Expression():
                number = _join(call, number, DType.i64)
            case float():
                number = _join(call, number, DEFAULT_FLOAT)
            case _:
                continue
    result = _combine(call, with_axes, _combine(call, without_axes, number))
    if result is None:
        raise call.fail("has no operand to take a dtype from")
    return result


def floating(dtype: DType) -> DType:
    """The dtype itself when it is floating point or complex, else the default float."""
    return dtype if dtype.kind in ("float", "complex") else DEFAULT_FLOAT
