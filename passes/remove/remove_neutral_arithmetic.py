"""Remove arithmetic with a neutral number where not one bit changes.

    mul(%x, 1)   div(%x, 1)   pow(%x, 1)   sub(%x, 0.0)   add(%x, -0.0)   -> %x
    add(%i, 0)  for integers                                              -> %i
    logical/bitwise: or(%b, false)  and(%b, true)  xor(%b, false)         -> %b

`add(%x, 0.0)` is not here: it turns -0.0 into 0.0, see `remove-zero-additions`.

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.ir.graph import Node, Operand, Value
from graphopt.ir.types import DType
from graphopt.passes.remove.common import Forward, LocalRule, float_of, forward
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["RemoveNeutralArithmetic"]

_EITHER_SIDE = frozenset({"mul", "add", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor"})
_UNIT = frozenset({"mul", "div", "pow"})
_ZERO = frozenset({"add", "sub", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift"})
_TRUTH = {"logical_and": True, "logical_or": False, "logical_xor": False, "bitwise_and": True, "bitwise_or": False, "bitwise_xor": False}


def _is_negative_zero(number: Operand) -> bool:
    return isinstance(number, float) and number == 0.0 and math.copysign(1.0, number) < 0


def _is_neutral(node: Node, x: Value, number: Operand) -> bool | NoMatch:
    if isinstance(number, bool):
        return x.type.dtype is DType.boolean and _TRUTH.get(node.op) is number
    value = float_of(number)
    if value == 1 and node.op in _UNIT:
        rounding = node.attrs.get("rounding")
        return rounding is None or not x.type.dtype.is_float
    if value != 0 or node.op not in _ZERO:
        return False
    if not x.type.dtype.is_float or node.op not in ("add", "sub"):
        return not x.type.dtype.is_float
    if node.op == "add" and not _is_negative_zero(number):
        return NoMatch("adding 0.0 turns -0.0 into 0.0; needs -0.0, or remove-zero-additions")
    return NoMatch("subtracting -0.0 turns -0.0 into 0.0; needs 0.0") if node.op == "sub" and _is_negative_zero(number) else True


class NeutralToOperand(LocalRule):
    """Forward the operand that a neutral number leaves as it is."""

    ops = _UNIT | _ZERO | frozenset(_TRUTH)

    def match(self, node: Node) -> Forward | NoMatch:
        """One operand is a value, the other a literal that is neutral for the op and the dtype."""
        left, right = node.operands
        if isinstance(right, Value) and node.op in _EITHER_SIDE:
            left, right = right, left
        if not isinstance(left, Value) or isinstance(right, Value) or right is None:
            return UNRELATED
        neutral = _is_neutral(node, left, right)
        if isinstance(neutral, NoMatch):
            return neutral
        return forward(node, left) if neutral else UNRELATED


@dataclass(frozen=True)
class RemoveNeutralArithmetic(RulePass):
    """Drop multiplications by one, exact additions of zero and the like."""

    name = "remove-neutral-arithmetic"
    numeric = NumericClass.EXACT
    rules = (NeutralToOperand(),)
