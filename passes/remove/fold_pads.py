"""Fold zero padding into the padding of a convolution or average pool.

    %p: f32[1,3,10,10] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0}
    %y: f32[1,8,8,8] = conv2d(%p, %w, none) {padding=(0, 0), ...}
    -> %y = conv2d(%x, %w, none) {padding=(1, 1), ...}

Sums leave the zeros out then, so they may be added in another order. Both sides of an axis have to be
padded alike; TensorFlow's "same" padding with stride 2 is not.

Numeric class: rounding, a few units in the last place of the sum. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.attributes import attribute_text
from graphopt.ir.graph import Node
from graphopt.passes.remove.common import LocalRule, Remake, fits, float_of, ints_of, producer_of
from graphopt.passes.remove.merge_pads import padding_sum
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["FoldPads"]


class ZeroPadToPadding(LocalRule):
    """Let the reader of a zero-padded image pad it by itself."""

    ops = frozenset({"conv1d", "conv2d", "conv3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer pads spatial axes with 0, as much on both sides, and the reader counts zeros the same way."""
        pad = producer_of(node.operands[0], "pad")
        if pad is None:
            return UNRELATED
        value = pad.attrs["value"]
        if pad.attrs["mode"] != "constant" or not isinstance(value, int | float) or float_of(value) != 0:
            return NoMatch(f"pads with {pad.attrs['mode']} {attribute_text(value)}, needs constant 0")
        padding = padding_sum(pad, node, len(ints_of(node.attrs["padding"])))
        if isinstance(padding, NoMatch):
            return padding
        if "kernel" in node.attrs:
            kernel = ints_of(node.attrs["kernel"])
            if not node.attrs["count_include_pad"] and node.attrs.get("divisor_override") is None:
                return NoMatch("count_include_pad is false, so the pool's own padding would not be counted as the pad's zeros are")
            if any(2 * own > size for own, size in zip(padding, kernel, strict=True)):
                return NoMatch(f"padding would be {padding} for kernel {kernel}, needs at most half of it")
            if node.attrs["ceil_mode"]:
                return NoMatch("ceil_mode is true, so windows over the edge count other elements; needs false")
        operands, attrs = (pad.operands[0], *node.operands[1:]), {**node.attrs, "padding": padding}
        return Remake(node, node.op, operands, attrs) if fits(node, node.op, operands, attrs) else NoMatch("another size would come out")


@dataclass(frozen=True)
class FoldPads(RulePass):
    """Fold zero padding into convolutions and average pools."""

    name = "fold-pads"
    numeric = NumericClass.ROUNDING
    rules = (ZeroPadToPadding(),)
