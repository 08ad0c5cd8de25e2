"""Use the number instead of a tensor that is full of it, and give `full` its final shape at once.

    %ones: f32[2,4] = full() {dtype=f32, shape=(2, 4), value=1.0}
    %y: f32[2,4] = add(%x, %ones)
    -> %y: f32[2,4] = add(%x, 1.0)

    reshape, permute, expand, slice, select, flip, roll, tile of a full     -> full {shape=...}

A number is used directly only where that leaves the result's type and its bits: in half precision
torch computes with an unrounded literal, so there the number has to be one that the dtype holds. A power
stays: torch multiplies for literal exponents like 2 and calls `pow` for tensors of them.

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Expression
from graphopt.ir.graph import Node, Operand
from graphopt.ir.types import DType
from graphopt.ops import COMPARISONS
from graphopt.passes.remove.common import LocalRule, Remake, fits, producer_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["FoldFullOperands"]

_TAKES_NUMBERS = COMPARISONS | {"add", "sub", "mul", "div", "maximum", "minimum", "where"}
_MAX_WHOLE = {DType.f16: 2048, DType.bf16: 256}
"""Whole numbers up to here are exact in half precision."""


def _literal(value: Attribute, dtype: DType) -> Operand:
    """The value as a literal of the dtype's kind, None when that would not be the same number."""
    if isinstance(value, Expression):
        return None
    if dtype is DType.boolean and isinstance(value, bool | int):
        return bool(value)
    if dtype.is_float and isinstance(value, int | float):
        number = float(value)
        if dtype in (DType.f32, DType.f64):
            return number
        limit = _MAX_WHOLE.get(dtype)
        return number if limit is not None and abs(number) <= limit and number == round(number) else None
    if dtype.kind == "int" and isinstance(value, int):
        bits = 8 * dtype.bytes
        return int(value) if abs(int(value)) < 2 ** (bits - 1) else None
    return None


class FullOperandToNumber(LocalRule):
    """Compute with the number itself."""

    ops = _TAKES_NUMBERS

    def match(self, node: Node) -> Remake | NoMatch:
        """An operand is a `full`, another one is a tensor that gives the result its type."""
        for index, operand in enumerate(node.operands):
            full = producer_of(operand, "full")
            if full is None:
                continue
            literal = _literal(full.attrs["value"], full.result.type.dtype)
            if literal is None:
                return NoMatch(f"{full.result.type.dtype.text} does not hold {full.attrs['value']} as it is")
            if node.op in ("maximum", "minimum") and literal == 0 and full.result.type.dtype.is_float:
                return NoMatch("which zero maximum and minimum pick of 0.0 and -0.0 depends on how it is vectorised")
            operands = (*node.operands[:index], literal, *node.operands[index + 1 :])
            if fits(node, node.op, operands, node.attrs):
                return Remake(node, node.op, operands, node.attrs)
        return UNRELATED


class ShapeOfFullToFull(LocalRule):
    """Moving equal elements around is nothing but another shape."""

    ops = frozenset({"reshape", "permute", "expand", "slice", "select", "flip", "roll", "tile"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The operand is a `full`."""
        full = producer_of(node.operands[0], "full")
        return UNRELATED if full is None else Remake(node, "full", (), {**full.attrs, "shape": node.result.shape})


@dataclass(frozen=True)
class FoldFullOperands(RulePass):
    """Replace tensors of one repeated number by the number."""

    name = "fold-full-operands"
    numeric = NumericClass.EXACT
    rules = (FullOperandToNumber(), ShapeOfFullToFull())
