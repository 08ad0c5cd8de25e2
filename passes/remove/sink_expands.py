"""Expand as late as possible, and not at all where the reader broadcasts anyway.

    %e: f32[8,4] = expand(%b) {shape=(8, 4)}      where %b: f32[4]
    %y: f32[8,4] = add(%x, %e)                    where %x: f32[8,4]
    -> %y: f32[8,4] = add(%x, %b)

    %e: f32[8,4] = expand(%b) {shape=(8, 4)}
    %y: f32[8,4] = exp(%e)
    -> %y: f32[8,4] = expand(exp(%b)) {shape=(8, 4)}      (less work)

Numeric class: rounding: vectorised functions such as exp and gelu may differ in the last bit between the
middle of a row and its end. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.ops import BINARY, UNARY
from graphopt.passes.remove.common import LocalRule, Remake, fits, only_reader, producer_of, sole_producer
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

__all__ = ["SinkExpands"]


class ExpandedOperandToBroadcast(LocalRule):
    """Read the small tensor; the op broadcasts it."""

    ops = BINARY | {"where"}

    def match(self, node: Node) -> Remake | NoMatch:
        """An operand is expanded, and without that the result has the same shape."""
        for index, operand in enumerate(node.operands):
            expand = producer_of(operand, "expand")
            if expand is None:
                continue
            operands = (*node.operands[:index], expand.operands[0], *node.operands[index + 1 :])
            if fits(node, node.op, operands, node.attrs):
                return Remake(node, node.op, operands, node.attrs)
        return UNRELATED


@dataclass(frozen=True, slots=True)
class _ExpandThenUnary:
    expand: Node
    unary: Node


class UnaryOfExpandToExpandOfUnary(Rule[_ExpandThenUnary]):
    """Compute on the small tensor, then expand."""

    ops = frozenset({"expand"})

    def match(self, node: Node) -> _ExpandThenUnary | NoMatch:
        """The only reader of the expand is a unary elementwise op."""
        reader = only_reader(node.result)
        if reader is None or reader.op not in UNARY:
            return UNRELATED
        if sole_producer(reader.operands[0], "expand") is not node:
            return UNRELATED
        return _ExpandThenUnary(node, reader)

    def rewrite(self, site: _ExpandThenUnary, rewriter: Rewriter) -> None:
        """Swap the two nodes."""
        small = rewriter.create(site.unary.op, (site.expand.operands[0],), site.unary.attrs, before=site.unary)
        rewriter.replace(site.unary, rewriter.emit("expand", small.result, before=site.unary, shape=site.expand.result.shape))
        rewriter.erase(site.expand)


@dataclass(frozen=True)
class SinkExpands(RulePass):
    """Move expands down through unary ops and into the readers that broadcast."""

    name = "sink-expands"
    numeric = NumericClass.ROUNDING
    rules = (ExpandedOperandToBroadcast(), UnaryOfExpandToExpandOfUnary())
