"""Cutting border taps off sliding windows so that the result keeps its size.

A window has `kernel` taps along an axis; tap t of output o reads position o * stride - padding + t * dilation. Without
its first `low` and last `high` taps the same outputs read the same positions when the padding is `padding - low *
dilation`, as long as that is at least 0 (more would crop the operand) and as many windows fit: padding is the same on
both sides, so the two ends can't be cut by different amounts except where the stride leaves room.

    kernel 5, padding 2, stride 1    cut (1, 1) -> kernel 3, padding 1        cut (2, 2) -> kernel 1, padding 0
    kernel 3, padding 1, stride 2    cut (1, 0) -> kernel 2, padding 0        on an even size
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node
from graphopt.passes.remove.absorb import TRANSPOSED
from graphopt.passes.remove.common import fits, ints_of

__all__ = ["Axis", "Crop", "axes_of", "cropped_attrs", "idle_borders", "no_crop_reason", "window_fits"]


@dataclass(frozen=True, slots=True)
class Crop:
    """Taps to take off one axis: the first `low` and the last `high`."""

    low: int
    high: int

    @property
    def taps(self) -> int:
        """How many go."""
        return self.low + self.high


@dataclass(frozen=True, slots=True)
class Axis:
    """A window along one spatial axis. `size` is that of the operand, `count` the number of outputs (elements)."""

    size: Dim
    count: Dim
    kernel: int
    stride: int
    padding: int
    dilation: int
    transposed: bool = False
    output_padding: int = 0
    ceil: bool = False

    def crops(self, smallest: int = 1) -> Iterator[Crop]:
        """The crops that keep the output's size and leave at least `smallest` taps, that of nothing first."""
        for taps in range(max(0, self.kernel - smallest) + 1):
            for low in range(taps + 1):
                crop = Crop(low, taps - low)
                if self._keeps_size(crop):
                    yield crop

    def _keeps_size(self, crop: Crop) -> bool:
        padding, kernel = self.padding - crop.low * self.dilation, self.kernel - crop.taps
        if padding < 0 or (crop.taps and kernel < 1):
            return False
        if self.transposed:
            return 0 <= self.output_padding_after(crop) < max(self.stride, self.dilation)
        if self.ceil:
            return True  # the type rule decides: the last window may overhang
        return (self.size + 2 * padding - self.dilation * (kernel - 1) - 1) // self.stride + 1 == self.count

    def output_padding_after(self, crop: Crop) -> int:
        """Output padding of a transposed convolution that makes up for a lopsided crop."""
        return self.output_padding + (crop.high - crop.low) * self.dilation

    def idle(self) -> tuple[int, int]:
        """How many first and last taps only ever meet padding; (0, 0) where the sizes are not known."""
        if self.transposed or not isinstance(self.size, int) or not isinstance(self.count, int) or self.size < 1:
            return 0, 0
        starts = range(-self.padding, -self.padding + self.count * self.stride, self.stride)
        busy = [any(0 <= start + tap * self.dilation < self.size for start in starts) for tap in range(self.kernel)]
        if not any(busy):
            return 0, 0
        return busy.index(True), busy[::-1].index(True)


def axes_of(node: Node, kernel: tuple[int, ...]) -> tuple[Axis, ...]:
    """The spatial axes of a convolution or pool whose window is `kernel`."""
    spatial = len(kernel)
    numbers = {name: ints_of(node.attrs[name]) for name in ("stride", "padding", "dilation", "output_padding") if name in node.attrs}
    dilation, extra = numbers.get("dilation", (1,) * spatial), numbers.get("output_padding", (0,) * spatial)
    sizes, counts = node.value(0).shape[-spatial:], node.result.shape[-spatial:]
    return tuple(
        Axis(
            sizes[i],
            counts[i],
            kernel[i],
            numbers["stride"][i],
            numbers["padding"][i],
            dilation[i],
            node.op in TRANSPOSED,
            extra[i],
            bool(node.attrs.get("ceil_mode", False)),
        )
        for i in range(spatial)
    )


def cropped_attrs(node: Node, axes: tuple[Axis, ...], crops: tuple[Crop, ...]) -> dict[str, Attribute]:
    """Attributes of the node after the crops, without `kernel`."""
    attrs = dict(node.attrs)
    attrs["padding"] = tuple(axis.padding - crop.low * axis.dilation for axis, crop in zip(axes, crops, strict=True))
    if "output_padding" in attrs:
        attrs["output_padding"] = tuple(axis.output_padding_after(crop) for axis, crop in zip(axes, crops, strict=True))
    return attrs


def idle_borders(axis: Axis, limit: tuple[int, int]) -> Crop:
    """The largest crop within the first and last taps that may go."""
    found = Crop(0, 0)
    for crop in axis.crops():
        if crop.low <= limit[0] and crop.high <= limit[1] and crop.taps > found.taps:
            found = crop
    return found


def no_crop_reason(axis: Axis, number: int, limit: tuple[int, int]) -> str:
    """Why none of the taps that may go can go along spatial axis `number`."""
    return (
        f"the first {limit[0]} and last {limit[1]} of {axis.kernel} taps on spatial axis {number} could go, "
        f"but with padding {axis.padding}, dilation {axis.dilation} and stride {axis.stride} the output would get another size"
    )


def window_fits(node: Node, attrs: Mapping[str, Attribute]) -> bool:
    """True when a pool with these attributes gives the same type."""
    return fits(node, node.op, node.operands, attrs)
