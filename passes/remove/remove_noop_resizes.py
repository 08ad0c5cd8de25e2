"""Remove interpolation to the size that the image has.

    %y: f32[1,3,8,8] = resize(%x) {align_corners=false, mode="linear", scales=none, size=(8, 8)}    where %x: f32[1,3,8,8]
    -> every use of %y becomes %x

Nearest-neighbour modes copy. Linear and cubic modes compute 1*x + 0*neighbour, which is x unless a
neighbour is infinite or NaN (then 0*inf is NaN), or x is -0.0.

Numeric class: rounding (error 0 for finite numbers). Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.passes.remove.common import Forward, LocalRule, dims_of, forward, tuple_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["RemoveNoopResizes"]


class SameSizeResizeToInput(LocalRule):
    """Forward the input of a resize to the same size."""

    ops = frozenset({"resize"})

    def match(self, node: Node) -> Forward | NoMatch:
        """Sizes are equal, and no scale says that positions are computed from another ratio."""
        size = dims_of(node.attrs["size"])
        if node.value(0).shape[-len(size) :] != size:
            return UNRELATED
        scales = node.attrs["scales"]
        if scales is not None and any(scale is not None and scale != 1 for scale in tuple_of(scales)):
            return NoMatch(f"the size stays but scales is {scales}, from which positions are computed; needs none or 1.0")
        return forward(node, node.operands[0])


@dataclass(frozen=True)
class RemoveNoopResizes(RulePass):
    """Drop interpolations that keep the size."""

    name = "remove-noop-resizes"
    numeric = NumericClass.ROUNDING
    rules = (SameSizeResizeToInput(),)
