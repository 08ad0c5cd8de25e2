"""Take the parts off pooling windows that only ever meet padding.

    %y: f32[1,8,3,3] = max_pool2d(%x) {kernel=(7, 7), padding=(3, 3), stride=(1, 1), ...}        %x: f32[1,8,3,3]
    -> %y = max_pool2d(%x) {kernel=(5, 5), padding=(2, 2), stride=(1, 1), ...}

No window of the first pool holds an element in its outermost ring: the image is smaller than the window. Pools of
spatial pyramids (SPP) are of this kind on small images. An average keeps its divisor: where padding counted, the old
one is written down as `divisor_override`.

    %y = avg_pool2d(%x) {kernel=(3, 3), padding=(1, 1), count_include_pad=true, ...}     %x: f32[1,8,1,1]
    -> %y = avg_pool2d(%x) {kernel=(1, 1), padding=(0, 0), divisor_override=9, ...}

Numeric class: rounding (max pools keep every bit; sums of averages leave zeros out). Stage: training-safe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node
from graphopt.passes.remove.common import LocalRule, Remake, ints_of, is_integer, tuple_of
from graphopt.passes.remove.window_crops import Axis, axes_of, cropped_attrs, idle_borders, no_crop_reason, window_fits
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["RemoveIdlePoolBorders", "constant_divisor"]


def constant_divisor(axes: tuple[Axis, ...]) -> int | None:
    """What an average pool that counts padding divides every window by; None where windows differ or sizes are unknown."""
    for axis in axes:
        if not axis.ceil:
            continue  # only windows that are rounded up can reach over the padding's end
        if not isinstance(axis.size, int) or not isinstance(axis.count, int):
            return None
        if (axis.count - 1) * axis.stride + axis.kernel > axis.size + 2 * axis.padding:
            return None
    return math.prod(axis.kernel for axis in axes)


class WindowToSmallerWindow(LocalRule):
    """The window without taps that only meet padding."""

    ops = frozenset(f"{kind}_pool{rank}d" for kind in ("max", "avg") for rank in (1, 2, 3))

    def match(self, node: Node) -> Remake | NoMatch:
        """Some border taps are idle, and padding and divisor can follow."""
        if not all(is_integer(item) for name in ("kernel", "stride", "padding") for item in tuple_of(node.attrs[name])):
            return UNRELATED
        axes = axes_of(node, ints_of(node.attrs["kernel"]))
        limits = tuple(axis.idle() for axis in axes)
        if all(limit == (0, 0) for limit in limits):
            return UNRELATED
        crops = tuple(idle_borders(axis, limit) for axis, limit in zip(axes, limits, strict=True))
        number = next(i for i, limit in enumerate(limits) if limit != (0, 0))
        if not any(crop.taps for crop in crops):
            return NoMatch(no_crop_reason(axes[number], number, limits[number]))
        attrs: dict[str, Attribute] = cropped_attrs(node, axes, crops)
        attrs["kernel"] = tuple(axis.kernel - crop.taps for axis, crop in zip(axes, crops, strict=True))
        if node.op.startswith("avg") and attrs["count_include_pad"] and attrs["divisor_override"] is None:
            divisor = constant_divisor(axes)
            if divisor is None:
                return NoMatch("ceil_mode is true and windows reach over the padding's end, so their divisors differ; needs one divisor")
            attrs["divisor_override"] = divisor
        if not window_fits(node, attrs):
            return NoMatch(no_crop_reason(axes[number], number, limits[number]))
        return Remake(node, node.op, node.operands, attrs)


@dataclass(frozen=True)
class RemoveIdlePoolBorders(RulePass):
    """Take the parts off pooling windows that only ever meet padding."""

    name = "remove-idle-pool-borders"
    numeric = NumericClass.ROUNDING
    rules = (WindowToSmallerWindow(),)
