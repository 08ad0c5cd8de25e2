"""Merge reductions with the reshapes and reductions around them where not one bit changes.

    %m: f32[2,8,1,1] = mean(%x) {axes=(2, 3), keepdims=true}
    %y: f32[2,8] = reshape(%m) {shape=(2, 8)}
    -> %y: f32[2,8] = mean(%x) {axes=(2, 3), keepdims=false}

    reshape(mean(%x) {keepdims=false}) that puts the axes back    -> mean(%x) {keepdims=true}
    amax(amax(%x)), amin(amin(%x)), any(any(%x)), all(all(%x))    -> one reduction over both axes

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.ops import REDUCTIONS
from graphopt.passes.remove.common import LocalRule, Remake, fits, ints_of, producer_of, sole_producer
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["MergeReductions", "combined_axes"]


def combined_axes(inner: Node, outer: Node) -> tuple[int, ...]:
    """The axes of the first operand over which two reductions in a row run."""
    first = ints_of(inner.attrs["axes"])
    second = ints_of(outer.attrs["axes"])
    if inner.attrs["keepdims"]:
        return tuple(sorted({*first, *second}))
    left = [axis for axis in range(inner.value(0).type.rank) if axis not in first]
    return tuple(sorted({*first, *(left[axis] for axis in second)}))


class ReshapeOfReduction(LocalRule):
    """Keep or drop the reduced axes at once."""

    ops = frozenset({"reshape"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer is a reduction that nobody else reads, and the reshape only adds or removes its axes."""
        reduction = sole_producer(node.operands[0], *REDUCTIONS)
        if reduction is None:
            return UNRELATED
        attrs = {**reduction.attrs, "keepdims": not reduction.attrs["keepdims"]}
        if not fits(node, reduction.op, reduction.operands, attrs):
            return UNRELATED
        return Remake(node, reduction.op, reduction.operands, attrs)


class ExtremumOfExtremum(LocalRule):
    """Reduce over all axes at once."""

    ops = frozenset({"amax", "amin", "any", "all"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer is the same reduction."""
        inner = producer_of(node.operands[0], node.op)
        if inner is None:
            return UNRELATED
        if inner.attrs["keepdims"] != node.attrs["keepdims"]:
            return NoMatch("one reduction keeps its axes and the other does not")
        attrs = {**node.attrs, "axes": combined_axes(inner, node)}
        return Remake(node, node.op, (inner.operands[0],), attrs) if fits(node, node.op, (inner.operands[0],), attrs) else UNRELATED


@dataclass(frozen=True)
class MergeReductions(RulePass):
    """One reduction in place of two, or of one and a reshape."""

    name = "merge-reductions"
    numeric = NumericClass.EXACT
    rules = (ReshapeOfReduction(), ExtremumOfExtremum())
