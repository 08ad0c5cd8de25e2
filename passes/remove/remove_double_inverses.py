"""Remove two operations that undo each other, and fold negations into sums and products.

    neg(neg(%x))   logical_not(logical_not(%b))   bitwise_not(bitwise_not(%i))   flip(flip(%x))   -> %x
    add(%a, neg(%b)) -> sub(%a, %b)      sub(%a, neg(%b)) -> add(%a, %b)      add(neg(%a), %b) -> sub(%b, %a)
    mul(neg(%a), neg(%b)) -> mul(%a, %b)     div likewise      roll(roll(%x)) -> one roll

`exp(log(x))`, `1/(1/x)` and the like round, lose the sign of zero or turn negative numbers into NaN; they stay.

Numeric class: exact; IEEE subtraction is addition of the negated number. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType
from graphopt.passes.remove.common import Forward, LocalRule, Remake, dim_of, fits, forward, ints_of, producer_of, sole_producer, tuple_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["RemoveDoubleInverses"]


class InverseOfInverse(LocalRule):
    """An op applied twice that is its own inverse."""

    ops = frozenset({"neg", "logical_not", "bitwise_not", "flip"})

    def match(self, node: Node) -> Forward | NoMatch:
        """The producer is the same op, with the same axes."""
        inner = producer_of(node.operands[0], node.op)
        if inner is None:
            return UNRELATED
        x = inner.value(0)
        if node.op == "flip" and set(ints_of(node.attrs["axes"])) != set(ints_of(inner.attrs["axes"])):
            return NoMatch(f"flips axes {node.attrs['axes']} after {inner.attrs['axes']}, needs the same")
        if node.op == "logical_not" and x.type.dtype is not DType.boolean:
            return NoMatch(f"logical_not twice makes {x.type.dtype.text} boolean, needs a bool")
        return forward(node, x)


class RollOfRoll(LocalRule):
    """Two rolls add up; when the sum is nothing, they vanish (shifted windows and back)."""

    ops = frozenset({"roll"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer is a roll over named axes too."""
        inner = producer_of(node.operands[0], "roll")
        if inner is None:
            return UNRELATED
        shifts: dict[int, Attribute] = {}
        for roll in (inner, node):
            axes = ints_of(roll.attrs["axes"])
            if not axes:
                return NoMatch("rolls the flattened tensor, needs axes")
            for axis, shift in zip(axes, tuple_of(roll.attrs["shifts"]), strict=True):
                shifts[axis] = dim_of(shifts.get(axis, 0)) + dim_of(shift)
        axes = tuple(sorted(shifts))
        return Remake(node, "roll", (inner.operands[0],), {"axes": axes, "shifts": tuple(shifts[axis] for axis in axes)})


class NegatedTermToOpposite(LocalRule):
    """Adding a negated number is subtracting it."""

    ops = frozenset({"add", "sub"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The right operand is negated, or for `add` the left one."""
        left, right = node.operands
        inner = sole_producer(right, "neg")
        if inner is None and node.op == "add":
            inner = sole_producer(left, "neg")
            left, right = right, left
        if inner is None:
            return UNRELATED
        op = "sub" if node.op == "add" else "add"
        operands = (left, inner.operands[0])
        return Remake(node, op, operands) if fits(node, op, operands, {}) else UNRELATED


class NegatedFactorsToProduct(LocalRule):
    """Two negations in a product or quotient cancel."""

    ops = frozenset({"mul", "div"})

    def match(self, node: Node) -> Remake | NoMatch:
        """Both operands are negated and the result is a real number."""
        left, right = (producer_of(operand, "neg") for operand in node.operands)
        if left is None or right is None or not isinstance(left.operands[0], Value):
            return UNRELATED
        if node.attrs.get("rounding") is not None or not node.result.type.dtype.is_float:
            return NoMatch("integer or rounded division of two negated numbers, needs floating point")
        return Remake(node, node.op, (left.operands[0], right.operands[0]), node.attrs)


@dataclass(frozen=True)
class RemoveDoubleInverses(RulePass):
    """Cancel double negations, double flips and rolls, and negations inside sums."""

    name = "remove-double-inverses"
    numeric = NumericClass.EXACT
    rules = (InverseOfInverse(), RollOfRoll(), NegatedTermToOpposite(), NegatedFactorsToProduct())
