"""Remove casts to the dtype a value has, and casts over a wider dtype.

    cast(%x) {dtype=f32}                         where %x: f32[4]    -> %x
    cast(cast(%h) {dtype=f32}) {dtype=bf16}      where %h: f16[4]    -> cast(%h) {dtype=bf16}
    cast(cast(%h) {dtype=f32}) {dtype=f16}       where %h: f16[4]    -> %h

The middle dtype has to hold every number of the first one. A narrowing cast in the middle rounds and stays.

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.ir.types import DType
from graphopt.passes.remove.common import Forward, LocalRule, Remake, forward, producer_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["MergeCasts", "holds_every"]

_FLOAT_BITS = {DType.f64: (53, 11), DType.f32: (24, 8), DType.f16: (11, 5), DType.bf16: (8, 8), DType.f8e5m2: (3, 5), DType.f8e4m3: (4, 4)}
"""Bits of significand and exponent."""


def _integer_bits(dtype: DType) -> tuple[bool, int]:
    """Whether an integer type has a sign, and how many bits its magnitude has."""
    if dtype is DType.boolean:
        return False, 1
    signed = dtype.name.startswith("i")
    return signed, 8 * dtype.bytes - (1 if signed else 0)


def holds_every(wide: DType, narrow: DType) -> bool:
    """True when `wide` represents every number of `narrow` without rounding."""
    if wide is narrow:
        return True
    if "complex" in (wide.kind, narrow.kind) or wide is DType.boolean:
        return False
    if wide.is_float:
        significand, exponent = _FLOAT_BITS[wide]
        if narrow.is_float:
            return significand >= _FLOAT_BITS[narrow][0] and exponent >= _FLOAT_BITS[narrow][1]
        return _integer_bits(narrow)[1] <= significand and _integer_bits(narrow)[1] < 2 ** (exponent - 1)
    if narrow.is_float:
        return False
    (wide_signed, wide_bits), (signed, bits) = _integer_bits(wide), _integer_bits(narrow)
    return wide_bits >= bits and (wide_signed or not signed)


class CastToSameDtype(LocalRule):
    """Forward the input of a cast that changes nothing."""

    ops = frozenset({"cast"})

    def match(self, node: Node) -> Forward | NoMatch:
        """Input and output dtype are equal."""
        return forward(node, node.operands[0]) if node.value(0).type.dtype is node.attrs["dtype"] else UNRELATED


class CastOfWideningCast(LocalRule):
    """Cast from where the number came from."""

    ops = frozenset({"cast"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer is a cast that loses nothing."""
        inner = producer_of(node.operands[0], "cast")
        if inner is None:
            return UNRELATED
        first, middle, last = inner.value(0).type.dtype, inner.result.type.dtype, node.result.type.dtype
        if not holds_every(middle, first):
            return NoMatch(f"the cast from {first.text} to {middle.text} before it rounds, needs a wider dtype")
        if first.is_float and last.kind == "int":
            return NoMatch(f"{first.text} to {last.text} treats numbers out of range as {middle.text} to {last.text} need not")
        return Remake(node, "cast", (inner.operands[0],), node.attrs)


@dataclass(frozen=True)
class MergeCasts(RulePass):
    """Drop casts that change nothing and merge chains of casts where the middle one is lossless."""

    name = "merge-casts"
    numeric = NumericClass.EXACT
    rules = (CastToSameDtype(), CastOfWideningCast())
