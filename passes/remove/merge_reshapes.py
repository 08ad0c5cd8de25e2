"""Merge chains of reshapes and expands into one.

    %a: f32[6,4] = reshape(%x) {shape=(6, 4)}
    %b: f32[24] = reshape(%a) {shape=(24,)}
    -> %b = reshape(%x) {shape=(24,)}

Also `expand` of `expand`, and an `expand` that only adds axes of size 1 becomes the reshape that it is.

Numeric class: exact, the order of the elements does not change. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.passes.remove.common import Forward, LocalRule, Remake, producer_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["MergeReshapes"]


class ReshapeOfReshape(LocalRule):
    """Only the last shape of a chain counts."""

    ops = frozenset({"reshape"})

    def match(self, node: Node) -> Forward | Remake | NoMatch:
        """The producer is a reshape too."""
        inner = producer_of(node.operands[0], "reshape")
        if inner is None:
            return UNRELATED
        x = inner.value(0)
        return Forward(node, x) if x.shape == node.result.shape else Remake(node, "reshape", (x,), node.attrs)


class ExpandOfExpand(LocalRule):
    """Only the last shape of a chain counts."""

    ops = frozenset({"expand"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer is an expand too."""
        inner = producer_of(node.operands[0], "expand")
        return UNRELATED if inner is None else Remake(node, "expand", (inner.operands[0],), node.attrs)


class ExpandByOnesToReshape(LocalRule):
    """An expand that repeats nothing is a reshape, which merges with its neighbours."""

    ops = frozenset({"expand"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The number of elements stays and the shape does not."""
        x = node.value(0)
        added = node.result.type.rank - x.type.rank
        if added == 0 or node.result.shape != (1,) * added + x.shape:
            return UNRELATED
        return Remake(node, "reshape", (x,), {"shape": node.result.shape})


@dataclass(frozen=True)
class MergeReshapes(RulePass):
    """One reshape for a chain of them."""

    name = "merge-reshapes"
    numeric = NumericClass.EXACT
    rules = (ReshapeOfReshape(), ExpandOfExpand(), ExpandByOnesToReshape())
