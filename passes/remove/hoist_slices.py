"""Cut before elementwise arithmetic instead of after it: fewer elements are computed.

    %g: f32[2,50,8] = gelu(%x) {approximate="none"}
    %y: f32[2,8] = select(%g) {axis=1, index=0}
    -> %x.select = select(%x) {axis=1, index=0};  %y: f32[2,8] = gelu(%x.select)

Moves slice, select, index_select above unary ops and above binary ops whose other operand is a number
or does not extend along the cut axis, where nobody else reads the uncut result.

Numeric class: rounding: vectorised functions such as exp and gelu may differ in the last bit between the
middle of a row and its end, so a cut can move that bit. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node, Value
from graphopt.ops import ELEMENTWISE
from graphopt.passes.remove.common import int_of, is_smaller, sole_producer
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

__all__ = ["HoistSlices"]


@dataclass(frozen=True, slots=True)
class Site:
    """`cut` takes part of the result of `arithmetic`; only operand `index` of that has to be cut."""

    cut: Node
    arithmetic: Node
    index: int


def _other_operand_fits(operand: object, node: Node, axis: int) -> bool:
    """True for a number, and for a tensor whose axes all lie behind the cut one, so that it stays aligned."""
    return not isinstance(operand, Value) or operand.type.rank < node.result.type.rank - axis


class ArithmeticThenCut(Rule[Site]):
    """Cut the operand that extends along the axis."""

    ops = frozenset({"slice", "select", "index_select"})

    def match(self, node: Node) -> Site | NoMatch:
        """An elementwise op that nobody else reads has one operand with the cut axis."""
        arithmetic = sole_producer(node.operands[0], *(ELEMENTWISE - {"prelu"}))
        if arithmetic is None:
            return UNRELATED
        result = arithmetic.result
        if not is_smaller(node.result.type.elements, result.type.elements):
            return UNRELATED
        axis = int_of(node.attrs["axis"])
        full = [index for index, operand in enumerate(arithmetic.operands) if isinstance(operand, Value) and operand.shape == result.shape]
        if len(full) != 1:
            return NoMatch(f"{arithmetic.op} has {len(full)} operands of the result's shape, needs one, or more would have to be cut")
        others = [operand for index, operand in enumerate(arithmetic.operands) if index != full[0]]
        if not all(_other_operand_fits(operand, arithmetic, axis) for operand in others):
            return NoMatch(f"another operand of {arithmetic.op} extends to axis {axis} too")
        return Site(node, arithmetic, full[0])

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Cut, then compute."""
        node, arithmetic = site.cut, site.arithmetic
        x = arithmetic.value(site.index)
        cut = rewriter.create(node.op, (x, *node.operands[1:]), node.attrs, before=node, name=f"{x.name}.{node.op}")
        operands = (*arithmetic.operands[: site.index], cut.result, *arithmetic.operands[site.index + 1 :])
        computed = rewriter.create(arithmetic.op, operands, arithmetic.attrs, before=node, source=arithmetic.source)
        rewriter.replace(node, computed.result)
        rewriter.erase_unused(arithmetic)


@dataclass(frozen=True)
class HoistSlices(RulePass):
    """Move slices, selects and index_selects above elementwise arithmetic."""

    name = "hoist-slices"
    numeric = NumericClass.ROUNDING
    rules = (ArithmeticThenCut(),)
