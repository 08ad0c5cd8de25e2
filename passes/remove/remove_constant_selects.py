"""Remove `where` whose answer is known, and shorten those that ask twice.

    where(true, %a, %b) -> %a        where(%c, %a, %a) -> %a
    where(logical_not(%c), %a, %b) -> where(%c, %b, %a)
    where(%c, %a, where(%c, %b, %d)) -> where(%c, %a, %d)

A `full` mask of one truth value counts as a known answer.

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node, Operand, Value
from graphopt.ir.types import DType
from graphopt.passes.remove.common import Forward, LocalRule, Remake, fits, forward, producer_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["RemoveConstantSelects"]


def _known_truth(condition: Operand) -> bool | None:
    if isinstance(condition, bool):
        return condition
    mask = producer_of(condition, "full")
    value = mask.attrs["value"] if mask is not None else None
    return bool(value) if isinstance(value, bool | int | float) else None


class KnownSelectToBranch(LocalRule):
    """Forward the branch that is always taken."""

    ops = frozenset({"where"})

    def match(self, node: Node) -> Forward | NoMatch:
        """The condition is one truth value, or both branches are the same value."""
        condition, a, b = node.operands
        truth = _known_truth(condition)
        if truth is None and not (isinstance(a, Value) and a is b):
            return UNRELATED
        taken = b if truth is False else a
        if not isinstance(taken, Value):
            return NoMatch(f"the branch that is always taken is the number {taken}, needs a tensor")
        return forward(node, taken)


class NegatedConditionToSwappedBranches(LocalRule):
    """Ask the question the other way round instead of negating the answer."""

    ops = frozenset({"where"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The condition is the negation of a mask."""
        negation = producer_of(node.operands[0], "logical_not", "bitwise_not")
        if negation is None or negation.value(0).type.dtype is not DType.boolean:
            return UNRELATED
        return Remake(node, "where", (negation.operands[0], node.operands[2], node.operands[1]))


class RepeatedConditionToBranch(LocalRule):
    """Inside a branch the condition's answer is known."""

    ops = frozenset({"where"})

    def match(self, node: Node) -> Remake | NoMatch:
        """A branch is a `where` with the same condition."""
        condition = node.operands[0]
        for index in (1, 2):
            inner = producer_of(node.operands[index], "where")
            if inner is None or inner.operands[0] is not condition:
                continue
            operands = (*node.operands[:index], inner.operands[index], *node.operands[index + 1 :])
            if fits(node, "where", operands, {}):
                return Remake(node, "where", operands)
        return UNRELATED


@dataclass(frozen=True)
class RemoveConstantSelects(RulePass):
    """Drop selections with a known answer."""

    name = "remove-constant-selects"
    numeric = NumericClass.EXACT
    rules = (KnownSelectToBranch(), NegatedConditionToSwappedBranches(), RepeatedConditionToBranch())
