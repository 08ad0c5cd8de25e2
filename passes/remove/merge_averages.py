"""Merge averages and sums with the pools, permutes and reshapes around them.

    %p: f32[2,8,1,1] = adaptive_avg_pool2d(%x) {output_size=(1, 1)}
    %y: f32[2,8] = reshape(%p) {shape=(2, 8)}
    -> %y: f32[2,8] = mean(%x) {axes=(2, 3), keepdims=false}

    mean(mean(%x)), sum(sum(%x))                      -> one reduction over all the axes
    mean(permute(%x)) {keepdims=false}                -> mean(%x), where the axes that stay keep their order
    adaptive_max_pool2d to 1x1, then a reshape        -> amax

Sums run in another order then.

Numeric class: rounding. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node
from graphopt.ops import REDUCTIONS
from graphopt.passes.remove.common import LocalRule, Remake, dims_of, fits, ints_of, sole_producer
from graphopt.passes.remove.merge_reductions import combined_axes
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["MergeAverages"]

_GLOBAL = {f"adaptive_{kind}_pool{rank}d": op for kind, op in (("avg", "mean"), ("max", "amax")) for rank in (1, 2, 3)}


class GlobalPoolAndReshape(LocalRule):
    """A pool to one element whose axes are dropped is a reduction."""

    ops = frozenset({"reshape"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer is an adaptive pool to size 1 that nobody else reads."""
        pool = sole_producer(node.operands[0], *_GLOBAL)
        if pool is None:
            return UNRELATED
        size = dims_of(pool.attrs["output_size"])
        if any(dim != 1 for dim in size):
            return UNRELATED
        rank = pool.value(0).type.rank
        attrs: dict[str, Attribute] = {"axes": tuple(range(rank - len(size), rank)), "keepdims": False}
        if not fits(node, _GLOBAL[pool.op], pool.operands, attrs):
            return NoMatch(f"the pooled {pool.result.type.text} is reshaped to {node.result.type.text}, needs the axes of size 1 dropped")
        return Remake(node, _GLOBAL[pool.op], pool.operands, attrs)


class AverageOfAverage(LocalRule):
    """Reduce over all axes at once."""

    ops = frozenset({"mean", "sum", "prod"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer is the same reduction, and nobody else reads it."""
        inner = sole_producer(node.operands[0], node.op)
        if inner is None:
            return UNRELATED
        if inner.attrs["keepdims"] != node.attrs["keepdims"]:
            return NoMatch("one reduction keeps its axes and the other does not")
        attrs = {**node.attrs, "axes": combined_axes(inner, node)}
        return Remake(node, node.op, inner.operands, attrs) if fits(node, node.op, inner.operands, attrs) else UNRELATED


class ReductionOfPermute(LocalRule):
    """Reduce the axes where they were before."""

    ops = REDUCTIONS

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer is a permute, and the axes that stay are in order before it."""
        permute = sole_producer(node.operands[0], "permute")
        if permute is None:
            return UNRELATED
        order = ints_of(permute.attrs["axes"])
        axes = ints_of(node.attrs["axes"])
        stay = [axis for position, axis in enumerate(order) if position not in axes]
        if node.attrs["keepdims"] and order != tuple(range(len(order))):
            kept_in_place = all(order[position] == position for position in range(len(order)) if position not in axes)
            if not kept_in_place:
                return NoMatch("keepdims is true and the axes that stay move, needs false")
        if stay != sorted(stay):
            return NoMatch(f"the axes that stay are {stay} before the permute, needs them in order")
        attrs = {**node.attrs, "axes": tuple(sorted(order[axis] for axis in axes))}
        return Remake(node, node.op, permute.operands, attrs) if fits(node, node.op, permute.operands, attrs) else UNRELATED


@dataclass(frozen=True)
class MergeAverages(RulePass):
    """One reduction in place of a global pool and a reshape, two reductions, or a permute and a reduction."""

    name = "merge-averages"
    numeric = NumericClass.ROUNDING
    rules = (GlobalPoolAndReshape(), AverageOfAverage(), ReductionOfPermute())
