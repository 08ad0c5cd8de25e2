"""Merge pads with pads, and pads of -inf with the padding of a max pool.

    %a: f32[1,4,10,10] = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0}
    %b: f32[1,4,12,12] = pad(%a) {mode="constant", pads=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0}
    -> %b = pad(%x) {mode="constant", pads=((0, 0), (0, 0), (2, 2), (2, 2)), value=0.0}

    max_pool2d(pad(%x) {value=-inf}) {padding=(0, 0)}     -> max_pool2d(%x) {padding=(1, 1)}

Torch allows a max pool to pad at most half its kernel; beyond that, and where the two sides of an axis
differ, the pad stays.

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.ir.attributes import attribute_text
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node
from graphopt.passes.remove.common import LocalRule, Remake, dims_of, fits, ints_of, producer_of, tuple_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["MergePads", "padding_sum"]


def padding_sum(pad: Node, consumer: Node, spatial: int) -> tuple[int, ...] | NoMatch:
    """The padding per spatial axis that pad and consumer make together, or why they can't be put together."""
    pads = [dims_of(pair) for pair in tuple_of(pad.attrs["pads"])]
    if any(side != 0 for pair in pads[:-spatial] for side in pair):
        return NoMatch(f"pads {pads} reach batch or channel axes, needs spatial axes only")
    total: list[int] = []
    for axis, ((low, high), own) in enumerate(zip(pads[-spatial:], ints_of(consumer.attrs["padding"]), strict=True)):
        if not isinstance(low, int) or not isinstance(high, int) or low != high or min(low, high) < 0:
            return NoMatch(f"pads ({low}, {high}) on spatial axis {axis}, needs the same number >= 0 on both sides")
        total.append(low + own)
    return tuple(total)


def _added(first: Dim, second: Dim) -> Dim | None:
    """One side of two pads after each other; None when the first pads by what the second does not undo."""
    if not (isinstance(first, int) and isinstance(second, int)):
        return first + second if first == 0 or second == 0 else None
    total = first + second
    crops_then_fills = first < 0 < second
    crops_more_than_was_filled = first > 0 > second and total < 0
    return None if crops_then_fills or crops_more_than_was_filled else total


class PadOfPad(LocalRule):
    """Add up the sides."""

    ops = frozenset({"pad"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer pads with the same constant."""
        inner = producer_of(node.operands[0], "pad")
        if inner is None:
            return UNRELATED
        if (node.attrs["mode"], inner.attrs["mode"]) != ("constant", "constant"):
            return NoMatch(f"modes are {inner.attrs['mode']} and {node.attrs['mode']}, needs constant twice")
        if attribute_text(node.attrs["value"]) != attribute_text(inner.attrs["value"]):
            return NoMatch(f"values are {attribute_text(inner.attrs['value'])} and {attribute_text(node.attrs['value'])}, needs the same")
        pairs: list[tuple[Dim, Dim]] = []
        for first, second in zip(tuple_of(inner.attrs["pads"]), tuple_of(node.attrs["pads"]), strict=True):
            low, high = (_added(one, two) for one, two in zip(dims_of(first), dims_of(second), strict=True))
            if low is None or high is None:
                return NoMatch(f"pads {first} and {second} of one axis crop and fill, which does not add up")
            pairs.append((low, high))
        return Remake(node, "pad", (inner.operands[0],), {**node.attrs, "pads": tuple(pairs)})


class PadOfMaxPool(LocalRule):
    """A max pool pads with -inf by itself."""

    ops = frozenset({"max_pool1d", "max_pool2d", "max_pool3d"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer pads spatial axes with -inf, as much on both sides."""
        pad = producer_of(node.operands[0], "pad")
        if pad is None:
            return UNRELATED
        if pad.attrs["mode"] != "constant" or pad.attrs["value"] != -math.inf:
            return NoMatch(f"pads with {pad.attrs['mode']} {attribute_text(pad.attrs['value'])}, needs constant -inf")
        kernel = ints_of(node.attrs["kernel"])
        padding = padding_sum(pad, node, len(kernel))
        if isinstance(padding, NoMatch):
            return padding
        if any(2 * own > size for own, size in zip(padding, kernel, strict=True)):
            return NoMatch(f"padding would be {padding} for kernel {kernel}, needs at most half of it")
        attrs = {**node.attrs, "padding": padding}
        if not fits(node, node.op, (pad.operands[0],), attrs):
            return NoMatch("the pool rounds its size up and would give another one")
        return Remake(node, node.op, (pad.operands[0],), attrs)


@dataclass(frozen=True)
class MergePads(RulePass):
    """One pad for a chain of them, none before a max pool that pads itself."""

    name = "merge-pads"
    numeric = NumericClass.EXACT
    rules = (PadOfPad(), PadOfMaxPool())
