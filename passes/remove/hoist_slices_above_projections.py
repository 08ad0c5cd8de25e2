"""Cut rows before a matrix product, norm or softmax instead of after it.

    %n: f32[2,50,8] = layer_norm(%x, %w, %b) {eps=1e-05, normalized_shape=(8,)}
    %y: f32[2,8] = select(%n) {axis=1, index=0}
    -> %x.select = select(%x) {axis=1, index=0};  %y = layer_norm(%x.select, %w, %b)

A vision transformer that classifies from its first token normalises only that one then. The cut axis must
be one that the op treats row by row, and nobody else may read the uncut result.

Numeric class: rounding (a matrix product of another size may sum in another order). Stage: training-safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node
from graphopt.passes.remove.common import int_of, is_smaller, sole_producer, tuple_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

__all__ = ["HoistSlicesAboveProjections"]


@dataclass(frozen=True, slots=True)
class Site:
    """`cut` takes rows of the result of `projection`, which has `attrs` when it is made of the cut rows."""

    cut: Node
    projection: Node
    attrs: Mapping[str, Attribute]


def _row_axes(node: Node) -> int:
    """How many leading axes the op treats row by row."""
    rank = node.result.type.rank
    if node.op in ("layer_norm", "rms_norm"):
        return rank - len(tuple_of(node.attrs["normalized_shape"]))
    return rank - 1


class ProjectionThenCut(Rule[Site]):
    """Cut the first operand."""

    ops = frozenset({"slice", "select", "index_select"})

    def match(self, node: Node) -> Site | NoMatch:
        """The op treats the cut axis row by row, and the cut leaves fewer rows."""
        projection = sole_producer(node.operands[0], "linear", "layer_norm", "rms_norm", "softmax", "log_softmax")
        if projection is None:
            return UNRELATED
        axis = int_of(node.attrs["axis"])
        attrs = projection.attrs
        if "axis" in attrs:
            along = int_of(attrs["axis"])
            if axis == along:
                return NoMatch(f"{projection.op} runs along the cut axis {axis}")
            attrs = {"axis": along - 1 if node.op == "select" and axis < along else along}
        elif axis >= _row_axes(projection):
            return NoMatch(f"{projection.op} mixes the elements of axis {axis}, needs an axis before {_row_axes(projection)}")
        if not is_smaller(node.result.type.elements, projection.result.type.elements):
            return NoMatch(f"the cut leaves {node.result.type.text} of {projection.result.type.text}, needs fewer elements to save work")
        return Site(node, projection, attrs)

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Cut, then compute."""
        node, projection = site.cut, site.projection
        x = projection.value(0)
        cut = rewriter.create(node.op, (x, *node.operands[1:]), node.attrs, before=node, name=f"{x.name}.{node.op}")
        made = rewriter.create(projection.op, (cut.result, *projection.operands[1:]), site.attrs, before=node, source=projection.source)
        rewriter.replace(node, made.result)
        rewriter.erase_unused(projection)


@dataclass(frozen=True)
class HoistSlicesAboveProjections(RulePass):
    """Move slices and selects above linear layers, layer norms and softmaxes."""

    name = "hoist-slices-above-projections"
    numeric = NumericClass.ROUNDING
    rules = (ProjectionThenCut(),)
