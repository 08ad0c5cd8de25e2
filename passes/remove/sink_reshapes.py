"""Merge reshapes that have elementwise nodes between them.

    %a: f32[2,12] = reshape(%x) {shape=(2, 12)}      where %x: f32[2,3,4]
    %r: f32[2,12] = relu(%a)
    %b: f32[6,4] = reshape(%r) {shape=(6, 4)}
    -> %r = relu(%x);  %b = reshape(%r) {shape=(6, 4)}

Every tensor that the elementwise nodes read has to be a reshape from one and the same shape (0-dim
tensors and literals do not care). When the last shape is the first, no reshape stays.

Numeric class: rounding: vectorised functions such as exp and gelu may differ in the last bit between the
middle of a row and its end, so another shape can move that bit. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node, Value
from graphopt.passes.remove.common import producer_of
from graphopt.passes.remove.elementwise import Tree, rebuild, tree_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

__all__ = ["SinkReshapes"]


@dataclass(frozen=True, slots=True)
class Site:
    """`last` reshapes the result of a tree whose leaves are all reshapes from one shape."""

    last: Node
    tree: Tree


class ReshapesAroundElementwise(Rule[Site]):
    """Do the arithmetic in the shape that was there before the first reshapes."""

    ops = frozenset({"reshape"})

    def match(self, node: Node) -> Site | NoMatch:
        """A reshape of elementwise nodes of reshapes from one shape."""
        tree = tree_of(node.operands[0])
        if tree is None:
            return UNRELATED
        shaped = [leaf for leaf in tree.leaves if leaf.type.rank > 0]
        inner = [producer_of(leaf, "reshape") for leaf in shaped]
        reshapes = [producer for producer in inner if producer is not None]
        if not reshapes:
            return UNRELATED
        if len(reshapes) < len(shaped):
            other = next(leaf for leaf, producer in zip(shaped, inner, strict=True) if producer is None)
            return NoMatch(f"%{other.name} between two reshapes is not reshaped, needs all tensors reshaped alike")
        shapes = {producer.value(0).shape for producer in reshapes}
        if len(shapes) > 1 or any(leaf.shape != tree.root.result.shape for leaf in shaped):
            return NoMatch("tensors between two reshapes have several shapes, needs one before and one after")
        (shape,) = shapes
        members = set(tree.nodes)
        freed = sum(all(user in members for user in producer.result.users) for producer in reshapes)
        if shape != node.result.shape and not freed:
            return NoMatch("the reshapes do not cancel and the first ones have other readers")
        return Site(node, tree)

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Rebuild the arithmetic and reshape its result once, if at all."""

        def unreshaped(leaf: Value) -> Value:
            return leaf.producer.value(0) if leaf.producer is not None and leaf.type.rank > 0 else leaf

        def reshaped(result: Value) -> Value:
            shape = site.last.result.shape
            return result if result.shape == shape else rewriter.emit("reshape", result, before=site.last, shape=shape)

        rebuild(site.last, site.tree, unreshaped, reshaped, rewriter)


@dataclass(frozen=True)
class SinkReshapes(RulePass):
    """Move reshapes down through elementwise nodes where they meet another reshape."""

    name = "sink-reshapes"
    numeric = NumericClass.ROUNDING
    rules = (ReshapesAroundElementwise(),)
