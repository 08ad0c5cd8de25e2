"""Merge permutes, turn those that move no data into reshapes, and cancel them across reshapes.

    %a: f32[4,2,3] = permute(%x) {axes=(2, 0, 1)}
    %b: f32[2,3,4] = permute(%a) {axes=(1, 2, 0)}
    -> every use of %b becomes %x

    permute(%x) {axes=(0, 2, 1)}     where %x: f32[2,1,8]        -> reshape(%x) {shape=(2, 8, 1)}

    permute(reshape(permute(%x)))    where the reshape only merges or splits axes that stay together
    -> reshape(permute(%x)), or reshape(%x) when the permutes cancel (image -> tokens -> image)

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Value
from graphopt.passes.remove.common import Forward, LocalRule, Remake, ints_of, is_smaller, producer_of, sole_producer
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

__all__ = ["MergePermutes", "axis_groups", "compose"]


def compose(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """The permutation that does `first`, then `second`."""
    return tuple(first[axis] for axis in second)


def axis_groups(before: Sequence[Dim], after: Sequence[Dim]) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """The smallest runs of axes that a reshape maps onto each other; None when sizes can't be compared.

    `axis_groups((2, 3, 4, 5), (6, 4, 5))` is `[((0, 1), (0,)), ((2,), (1,)), ((3,), (2,))]`.
    """
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        starts = i, j
        left: Dim = 1
        right: Dim = 1
        while True:
            if i > starts[0] and j > starts[1] and left == right:
                break
            # Grow the side whose product is smaller; of equal or incomparable products the one with axes left.
            if (is_smaller(left, right) or i == starts[0] or j == len(after)) and i < len(before):
                left = left * before[i]
                i += 1
            elif j < len(after):
                right = right * after[j]
                j += 1
            else:
                break
        if left != right:
            return None
        groups.append((tuple(range(starts[0], i)), tuple(range(starts[1], j))))
    return groups


class PermuteOfPermute(LocalRule):
    """Two permutes are one, or none."""

    ops = frozenset({"permute"})

    def match(self, node: Node) -> Forward | Remake | NoMatch:
        """The producer is a permute too."""
        inner = producer_of(node.operands[0], "permute")
        if inner is None:
            return UNRELATED
        axes = compose(ints_of(inner.attrs["axes"]), ints_of(node.attrs["axes"]))
        if axes == tuple(range(len(axes))):
            return Forward(node, inner.operands[0])
        return Remake(node, "permute", (inner.operands[0],), {"axes": axes})


class PermuteOfUnitAxesToReshape(LocalRule):
    """A permute that only moves axes of size 1 leaves the elements in their order."""

    ops = frozenset({"permute"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The other axes stay in order."""
        x = node.value(0)
        axes = ints_of(node.attrs["axes"])
        moved = [axis for axis in axes if x.shape[axis] != 1]
        if moved != sorted(moved) or axes == tuple(range(len(axes))):
            return UNRELATED
        return Remake(node, "reshape", (x,), {"shape": node.result.shape})


@dataclass(frozen=True, slots=True)
class _AcrossReshape:
    """`last` permutes what `reshape` makes of a permuted `x`: permute by `axes`, then reshape."""

    last: Node
    x: Value
    axes: tuple[int, ...]


class PermutesAcrossReshape(Rule[_AcrossReshape]):
    """Do the second permute before the reshape, where it meets the first."""

    ops = frozenset({"permute"})

    def match(self, node: Node) -> _AcrossReshape | NoMatch:
        """permute, reshape, permute, with the reshape's groups of axes kept together by the second permute."""
        reshape = sole_producer(node.operands[0], "reshape")
        first = sole_producer(reshape.operands[0], "permute") if reshape is not None else None
        if reshape is None or first is None:
            return UNRELATED
        groups = axis_groups(first.result.shape, reshape.result.shape)
        if groups is None:
            return NoMatch(f"reshape from {first.result.type.text} to {reshape.result.type.text} has sizes that can't be compared")
        group_of = {axis: number for number, (_, after) in enumerate(groups) for axis in after}
        axes = ints_of(node.attrs["axes"])
        order: list[int] = []
        position = 0
        while position < len(axes):
            _, after = groups[group_of[axes[position]]]
            if axes[position : position + len(after)] != after:
                return NoMatch(f"the second permute {axes} takes axes {after} apart, which the reshape between makes of one")
            order += groups[group_of[axes[position]]][0]
            position += len(after)
        return _AcrossReshape(node, first.value(0), compose(ints_of(first.attrs["axes"]), order))

    def rewrite(self, site: _AcrossReshape, rewriter: Rewriter) -> None:
        """One permute and one reshape; the permute is left out when it does nothing."""
        node, x = site.last, site.x
        between = node.value(0).producer
        if site.axes != tuple(range(len(site.axes))):
            x = rewriter.emit("permute", x, before=node, axes=site.axes)
        if x.shape != node.result.shape:
            x = rewriter.emit("reshape", x, before=node, shape=node.result.shape)
        rewriter.replace(node, x)
        rewriter.erase_unused(between)


@dataclass(frozen=True)
class MergePermutes(RulePass):
    """One permute for a chain of them, none where they cancel."""

    name = "merge-permutes"
    numeric = NumericClass.EXACT
    rules = (PermuteOfPermute(), PermuteOfUnitAxesToReshape(), PermutesAcrossReshape())
