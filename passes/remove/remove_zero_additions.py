"""Remove additions of zero that only change the sign of a zero.

    add(%x, 0.0)   add(0.0, %x)   sub(%x, -0.0)   -> %x

In IEEE arithmetic -0.0 + 0.0 is 0.0, so the sign of a zero can differ afterwards; all other numbers, NaN
and infinities are the same. The cases without that difference are in `remove-neutral-arithmetic`.

Numeric class: rounding (error 0, but not equal bits). Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node, Value
from graphopt.passes.remove.common import Forward, LocalRule, float_of, forward
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["RemoveZeroAdditions"]


class ZeroAdditionToOperand(LocalRule):
    """Forward the operand to which zero is added."""

    ops = frozenset({"add", "sub"})

    def match(self, node: Node) -> Forward | NoMatch:
        """One operand is a value, the other the literal zero; for `sub` the zero is on the right."""
        left, right = node.operands
        if node.op == "add" and isinstance(right, Value):
            left, right = right, left
        if not isinstance(left, Value) or float_of(right) != 0:
            return UNRELATED
        return forward(node, left)


@dataclass(frozen=True)
class RemoveZeroAdditions(RulePass):
    """Drop additions of 0.0 to floating-point tensors."""

    name = "remove-zero-additions"
    numeric = NumericClass.ROUNDING
    rules = (ZeroAdditionToOperand(),)
