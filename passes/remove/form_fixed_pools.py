"""Adaptive pools whose windows are all alike become pools with that window, and pools with one window become global.

    %y: f32[1,8,3,3] = adaptive_avg_pool2d(%x) {output_size=(3, 3)}       %x: f32[1,8,6,6]
    -> %y = avg_pool2d(%x) {kernel=(2, 2), stride=(2, 2), padding=(0, 0), ...}

    %y: f32[1,8,1,1] = avg_pool2d(%x) {kernel=(6, 6), padding=(0, 0), ...}
    -> %y = adaptive_avg_pool2d(%x) {output_size=(1, 1)}                  which merges with the reshape behind it

Fixed windows are what kernels and other formats know; a global pool is what `merge-averages` makes a reduction of.

Numeric class: rounding (max pools keep every bit). Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node
from graphopt.ops import ADAPTIVE_POOLS, AVERAGE_POOLS, MAX_POOLS
from graphopt.passes.remove.common import LocalRule, Remake, dims_of, fits
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["FormFixedPools"]


class AdaptivePoolToFixedPool(LocalRule):
    """Say the window where the output size divides the size."""

    ops = ADAPTIVE_POOLS

    def match(self, node: Node) -> Remake | NoMatch:
        """All sizes are known, every output gets as many elements, and there is more than one output."""
        counts = dims_of(node.attrs["output_size"])
        sizes = node.value(0).shape[-len(counts) :]
        if all(count == 1 for count in counts) or counts == sizes:
            return UNRELATED
        window: list[int] = []
        for number, (size, count) in enumerate(zip(sizes, counts, strict=True)):
            if not isinstance(size, int) or not isinstance(count, int) or count == 0 or size % count:
                return NoMatch(
                    f"spatial axis {number} has {size} elements for {count} outputs, needs a multiple known before the graph runs"
                )
            window.append(size // count)
        rank = len(counts)
        attrs: dict[str, Attribute] = {"kernel": tuple(window), "stride": tuple(window), "padding": (0,) * rank, "ceil_mode": False}
        if node.op.startswith("adaptive_max"):
            attrs["dilation"] = (1,) * rank
        else:
            attrs |= {"count_include_pad": True, "divisor_override": None}
        return Remake(node, node.op.removeprefix("adaptive_"), node.operands, attrs)


class WholePoolToGlobalPool(LocalRule):
    """A pool with one window over the whole image."""

    ops = AVERAGE_POOLS | MAX_POOLS

    def match(self, node: Node) -> Remake | NoMatch:
        """The window is the image, without padding or a divisor."""
        kernel = dims_of(node.attrs["kernel"])
        if kernel != node.value(0).shape[-len(kernel) :] or all(size == 1 for size in kernel):
            return UNRELATED
        if any(side != 0 for side in dims_of(node.attrs["padding"])) or node.attrs.get("divisor_override") is not None:
            return NoMatch("the window is the whole image, but padding or a divisor count too")
        attrs: dict[str, Attribute] = {"output_size": (1,) * len(kernel)}
        op = f"adaptive_{node.op}"
        return Remake(node, op, node.operands, attrs) if fits(node, op, node.operands, attrs) else UNRELATED


@dataclass(frozen=True)
class FormFixedPools(RulePass):
    """Fixed windows in place of adaptive ones where all are alike; global pools in place of one window."""

    name = "form-fixed-pools"
    numeric = NumericClass.ROUNDING
    rules = (AdaptivePoolToFixedPool(), WholePoolToGlobalPool())
