"""Cancel permutes that have elementwise nodes between them.

    %p: f32[1,8,8,4] = permute(%x) {axes=(0, 2, 3, 1)}
    %r: f32[1,8,8,4] = relu(%p)
    %q: f32[1,4,8,8] = permute(%r) {axes=(0, 3, 1, 2)}
    -> %q: f32[1,4,8,8] = relu(%x)

Every tensor that the elementwise nodes read has to be permuted in the same way (0-dim tensors and
literals do not care). Where the permutes do not cancel, one stays behind the arithmetic. The number
of nodes always falls.

Numeric class: rounding: vectorised functions such as exp and gelu may differ in the last bit between the
middle of a row and its end, so a layout change can move that bit. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node, Value
from graphopt.passes.remove.common import ints_of, producer_of
from graphopt.passes.remove.elementwise import Tree, rebuild, tree_of
from graphopt.passes.remove.merge_permutes import compose
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

__all__ = ["SinkPermutes"]


@dataclass(frozen=True, slots=True)
class Site:
    """`last` permutes the result of a tree whose leaves are all permuted; together they permute by `axes`."""

    last: Node
    tree: Tree
    axes: tuple[int, ...]


class PermutesAroundElementwise(Rule[Site]):
    """Do the arithmetic on what was there before the first permutes."""

    ops = frozenset({"permute"})

    def match(self, node: Node) -> Site | NoMatch:
        """A permute of elementwise nodes of permutes by the same axes."""
        tree = tree_of(node.operands[0])
        if tree is None:
            return UNRELATED
        shaped = [leaf for leaf in tree.leaves if leaf.type.rank > 0]
        inner = [producer_of(leaf, "permute") for leaf in shaped]
        permutes = [producer for producer in inner if producer is not None]
        if not permutes:
            return UNRELATED
        if len(permutes) < len(shaped):
            other = next(leaf for leaf, producer in zip(shaped, inner, strict=True) if producer is None)
            return NoMatch(f"%{other.name} between two permutes is not permuted, needs all tensors permuted alike")
        axes = {ints_of(producer.attrs["axes"]) for producer in permutes}
        if len(axes) > 1:
            return NoMatch(f"tensors between two permutes are permuted by {' and '.join(map(str, sorted(axes)))}, needs the same")
        combined = compose(axes.pop(), ints_of(node.attrs["axes"]))
        cancels = combined == tuple(range(len(combined)))
        members = set(tree.nodes)
        freed = sum(all(user in members for user in producer.result.users) for producer in permutes)
        if not cancels and not freed:
            return NoMatch("the permutes do not cancel and the first ones have other readers")
        return Site(node, tree, combined)

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Rebuild the arithmetic and permute its result once, if at all."""

        def unpermuted(leaf: Value) -> Value:
            return leaf.producer.value(0) if leaf.producer is not None and leaf.type.rank > 0 else leaf

        def permuted(result: Value) -> Value:
            cancels = site.axes == tuple(range(len(site.axes)))
            return result if cancels else rewriter.emit("permute", result, before=site.last, axes=site.axes)

        rebuild(site.last, site.tree, unpermuted, permuted, rewriter)


@dataclass(frozen=True)
class SinkPermutes(RulePass):
    """Move permutes down through elementwise nodes where they meet another permute."""

    name = "sink-permutes"
    numeric = NumericClass.ROUNDING
    rules = (PermutesAroundElementwise(),)
