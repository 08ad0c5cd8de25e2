"""Remove max pools whose windows hold one element.

    %y: f32[1,8,4,4] = max_pool2d(%x) {ceil_mode=false, dilation=(1, 1), kernel=(1, 1), padding=(0, 0), stride=(1, 1)}
    %y: f32[1,8,4,4] = adaptive_max_pool2d(%x) {output_size=(4, 4)}      where %x: f32[1,8,4,4]
    -> every use of %y becomes %x

Average pools of one element turn -0.0 into 0.0 and are left to `remove-unit-average-pools`.

Numeric class: exact, NaN and infinities included. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.passes.remove.common import Forward, LocalRule, dims_of, forward, ints_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["RemoveUnitPools", "why_not_unit"]


def why_not_unit(node: Node) -> NoMatch | None:
    """None when a pool's windows hold one element each and follow each other; else the reason, if it was close."""
    if any(size != 1 for size in ints_of(node.attrs["kernel"])):
        return UNRELATED
    for name, unit in (("stride", 1), ("padding", 0)):
        found = ints_of(node.attrs[name])
        if any(size != unit for size in found):
            return NoMatch(f"kernel is 1, but {name} is {found}, needs all {unit}")
    return None


class UnitMaxPoolToInput(LocalRule):
    """Forward the input of a max pool with one-element windows."""

    ops = frozenset({"max_pool1d", "max_pool2d", "max_pool3d"})

    def match(self, node: Node) -> Forward | NoMatch:
        """Kernel and stride are 1 and there is no padding."""
        return why_not_unit(node) or forward(node, node.operands[0])


class SameSizeAdaptiveMaxPoolToInput(LocalRule):
    """Forward the input of an adaptive max pool to the size that it has."""

    ops = frozenset({"adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"})

    def match(self, node: Node) -> Forward | NoMatch:
        """Output size and input size are equal."""
        size = dims_of(node.attrs["output_size"])
        return forward(node, node.operands[0]) if node.value(0).shape[-len(size) :] == size else UNRELATED


@dataclass(frozen=True)
class RemoveUnitPools(RulePass):
    """Drop max pools that take the maximum of one element."""

    name = "remove-unit-pools"
    numeric = NumericClass.EXACT
    rules = (UnitMaxPoolToInput(), SameSizeAdaptiveMaxPoolToInput())
