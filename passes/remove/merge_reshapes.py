"""Merge chains of reshapes and expands into one, also around a permute.

    %a: f32[6,4] = reshape(%x) {shape=(6, 4)}
    %b: f32[24] = reshape(%a) {shape=(24,)}
    -> %b = reshape(%x) {shape=(24,)}

    %a: f32[6,4*n,8] = reshape(%x) {shape=(6, 4*n, 8)}                 where %x: f32[6,n,32]
    %b: f32[4*n,6,8] = permute(%a) {axes=(1, 0, 2)}
    %c: f32[n,4,6,8] = reshape(%b) {shape=(n, 4, 6, 8)}
    -> %a: f32[6,n,4,8] = reshape(%x) {shape=(6, n, 4, 8)};  %c = permute(%a) {axes=(1, 2, 0, 3)}

The last is how attention merges batch and heads and takes them apart again. Also `expand` of `expand`, and an `expand` that
only adds axes of size 1 becomes the reshape that it is.

Numeric class: exact, the order of the elements does not change. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Value
from graphopt.passes.remove.common import Forward, LocalRule, Remake, ints_of, producer_of, sole_producer
from graphopt.passes.remove.merge_permutes import axis_groups
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

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


@dataclass(frozen=True, slots=True)
class _SplitLate:
    """`last` splits axes of a permuted reshape of `x`: reshape to `shape`, then permute by `axes`."""

    last: Node
    x: Value
    shape: tuple[Dim, ...]
    axes: tuple[int, ...]


class SplitBeforePermute(Rule[_SplitLate]):
    """A reshape that only splits axes is done before the permute, where it meets another reshape."""

    ops = frozenset({"reshape"})

    def match(self, node: Node) -> _SplitLate | NoMatch:
        """reshape, permute, reshape; the last one makes one or more axes of each."""
        permute = sole_producer(node.operands[0], "permute")
        first = sole_producer(permute.operands[0], "reshape") if permute is not None else None
        if permute is None or first is None:
            return UNRELATED
        groups = axis_groups(permute.result.shape, node.result.shape)
        if groups is None:
            return NoMatch(f"reshape from {permute.result.type.text} to {node.result.type.text} has sizes that can't be compared")
        if any(len(before) != 1 for before, _ in groups):
            return NoMatch(f"reshape from {permute.result.type.text} to {node.result.type.text} merges axes")
        order = ints_of(permute.attrs["axes"])
        parts = {order[before[0]]: after for before, after in groups}  # by the axis of the first reshape's result
        sources = [axis for number in range(len(order)) for axis in parts[number]]
        return _SplitLate(
            node,
            first.value(0),
            tuple(node.result.shape[axis] for axis in sources),
            tuple(sources.index(axis) for axis in range(len(sources))),
        )

    def rewrite(self, site: _SplitLate, rewriter: Rewriter) -> None:
        """One reshape, left out where it does nothing, and one permute."""
        node, x = site.last, site.x
        between = node.value(0).producer
        if x.shape != site.shape:
            x = rewriter.emit("reshape", x, before=node, shape=site.shape)
        rewriter.replace(node, rewriter.emit("permute", x, before=node, axes=site.axes))
        rewriter.erase_unused(between)


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
    rules = (ReshapeOfReshape(), SplitBeforePermute(), ExpandOfExpand(), ExpandByOnesToReshape())
