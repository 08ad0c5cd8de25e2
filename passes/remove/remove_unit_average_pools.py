"""Remove average pools whose windows hold one element.

    %y: f32[1,8,7,7] = adaptive_avg_pool2d(%x) {output_size=(7, 7)}      where %x: f32[1,8,7,7]
    -> every use of %y becomes %x

Torch computes them as a sum that starts at 0.0, so -0.0 becomes 0.0; nothing else changes. VGG at 224
pixels has such a pool.

Numeric class: rounding (error 0, but the sign of a zero may change). Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.passes.remove.common import Forward, LocalRule, dims_of, forward
from graphopt.passes.remove.remove_unit_pools import why_not_unit
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["RemoveUnitAveragePools"]


class UnitAveragePoolToInput(LocalRule):
    """Forward the input of an average pool with one-element windows."""

    ops = frozenset({"avg_pool1d", "avg_pool2d", "avg_pool3d"})

    def match(self, node: Node) -> Forward | NoMatch:
        """Kernel and stride are 1, there is no padding and the divisor is 1."""
        why = why_not_unit(node)
        if why is not None:
            return why
        divisor = node.attrs.get("divisor_override")
        if divisor not in (None, 1):
            return NoMatch(f"divisor_override is {divisor}, needs none or 1")
        return forward(node, node.operands[0])


class SameSizeAdaptiveAveragePoolToInput(LocalRule):
    """Forward the input of an adaptive average pool to the size that it has."""

    ops = frozenset({"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"})

    def match(self, node: Node) -> Forward | NoMatch:
        """Output size and input size are equal."""
        size = dims_of(node.attrs["output_size"])
        return forward(node, node.operands[0]) if node.value(0).shape[-len(size) :] == size else UNRELATED


@dataclass(frozen=True)
class RemoveUnitAveragePools(RulePass):
    """Drop average pools that average one element."""

    name = "remove-unit-average-pools"
    numeric = NumericClass.ROUNDING
    rules = (UnitAveragePoolToInput(), SameSizeAdaptiveAveragePoolToInput())
