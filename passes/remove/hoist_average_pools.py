"""Average before a 1x1 convolution instead of after it: the convolution has fewer positions to compute.

    %c: f32[1,16,8,8] = conv2d(%x, %w, none) {kernel 1x1}
    %y: f32[1,16,4,4] = avg_pool2d(%c) {kernel=(2, 2), stride=(2, 2), ...}
    -> %p = avg_pool2d(%x);  %y = conv2d(%p, %w, none)            a quarter of the multiplications

Averaging works on positions and a 1x1 convolution on channels, so they commute; with a bias only if the
weights of every average sum to 1 (no zeros counted from padding, no divisor_override). Also adaptive
average pools and `mean` over all spatial axes. DenseNet's transitions are of this form.

Numeric class: rounding. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.ops import AVERAGE_POOLS, CONVOLUTIONS
from graphopt.passes.remove.common import ints_of, is_smaller, sole_producer
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

__all__ = ["HoistAveragePools"]


@dataclass(frozen=True, slots=True)
class Site:
    """An average of the result of a pointwise convolution."""

    average: Node
    convolution: Node


def _is_pointwise(node: Node) -> bool:
    spatial = len(ints_of(node.attrs["stride"]))
    return (
        all(size == 1 for size in node.value(1).shape[-spatial:])
        and all(step == 1 for step in ints_of(node.attrs["stride"]))
        and all(side == 0 for side in ints_of(node.attrs["padding"]))
    )


def _weights_sum_to_one(node: Node) -> bool:
    if node.op not in AVERAGE_POOLS:
        return True
    if node.attrs.get("divisor_override") is not None:
        return False
    no_padding = all(side == 0 for side in ints_of(node.attrs["padding"]))
    return (no_padding and not node.attrs["ceil_mode"]) or not node.attrs["count_include_pad"]


class ConvolutionThenAverage(Rule[Site]):
    """Swap a pointwise convolution and the average behind it."""

    ops = AVERAGE_POOLS | frozenset({"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "mean"})

    def match(self, node: Node) -> Site | NoMatch:
        """The average is all that reads a 1x1 convolution, leaves fewer positions, and treats the bias right."""
        convolution = sole_producer(node.operands[0], *CONVOLUTIONS)
        if convolution is None or not _is_pointwise(convolution):
            return UNRELATED
        image = convolution.result
        spatial = len(ints_of(convolution.attrs["stride"]))
        if image.type.rank != spatial + 2:
            return NoMatch(f"the image is {image.type.text}, needs a batch axis")
        if node.op == "mean" and ints_of(node.attrs["axes"]) != tuple(range(2, spatial + 2)):
            return NoMatch(f"the mean is over axes {node.attrs['axes']}, needs all spatial ones {tuple(range(2, spatial + 2))}")
        if not is_smaller(node.result.type.elements, image.type.elements):
            return NoMatch(f"the average gives {node.result.type.text} from {image.type.text}, needs fewer positions to save work")
        if convolution.operands[2] is not None and not _weights_sum_to_one(node):
            return NoMatch("the convolution has a bias and the pool counts padding or overrides its divisor, which would scale the bias")
        return Site(node, convolution)

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Average, then the convolution; a mean that drops its axes does so last."""
        node, convolution = site.average, site.convolution
        attrs = {**node.attrs, "keepdims": True} if node.op == "mean" else node.attrs
        x = convolution.value(0)
        averaged = rewriter.create(node.op, (x,), attrs, before=node, name=f"{x.name}.{node.op}")
        mixed = rewriter.create(
            convolution.op, (averaged.result, *convolution.operands[1:]), convolution.attrs, before=node, source=convolution.source
        )
        result = mixed.result
        if result.shape != node.result.shape:
            result = rewriter.emit("reshape", result, before=node, shape=node.result.shape)
        rewriter.replace(node, result)
        rewriter.erase_unused(convolution)


@dataclass(frozen=True)
class HoistAveragePools(RulePass):
    """Move average pools and spatial means above pointwise convolutions."""

    name = "hoist-average-pools"
    numeric = NumericClass.ROUNDING
    rules = (ConvolutionThenAverage(),)
