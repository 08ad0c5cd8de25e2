"""Take border taps off convolution kernels that add nothing.

    %y: f32[1,8,6,6] = conv2d(%x, %w, none) {padding=(1, 1), ...}      %w: f32[8,4,3,3], its outer rows are zero
    -> %y = conv2d(%x, %w_folded, none) {padding=(0, 1), ...}          %w_folded: f32[8,4,1,3]

A tap is idle when its weights are zero in all channels, or when it only ever meets padding: a 3x3 kernel on a 1x1
image, as in the last stage of a classifier on small images, is a 1x1 kernel. The padding shrinks with the kernel, so
the size of the result stays; where it can't (no padding, or one end only) the kernel stays, with a reason.

Transposed convolutions too: what a lopsided cut moves is made up for by `output_padding`.

Numeric class: rounding; terms 0 * x are left out, which is the same for finite x, and sums may run in another order.
Stage: deploy; a zero weight can still learn, and on larger images padding gives way to the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from graphopt.analysis.sparsity_patterns import sparsity_left
from graphopt.ir.graph import Node, State
from graphopt.ir.types import TensorType
from graphopt.passes.remove.absorb import CONVOLUTIONS, TRANSPOSED, folded_name
from graphopt.passes.remove.states import drop_orphans
from graphopt.passes.remove.window_crops import Axis, Crop, axes_of, cropped_attrs, idle_borders, no_crop_reason
from graphopt.pipeline.passes import NumericClass, RulePass, Stage
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

if TYPE_CHECKING:
    import torch

__all__ = ["KernelToSmallerKernel", "RemoveIdleKernelBorders", "cropped_weight"]


@dataclass(frozen=True, slots=True)
class Site:
    """A convolution, its windows along each axis, and what goes."""

    node: Node
    weight: State
    axes: tuple[Axis, ...]
    crops: tuple[Crop, ...]


def cropped_weight(tensor: torch.Tensor, crops: tuple[Crop, ...]) -> torch.Tensor:
    """The kernel without its border taps; spatial axes are the last ones."""
    for index, crop in enumerate(crops):
        axis = tensor.dim() - len(crops) + index
        tensor = tensor.narrow(axis, crop.low, tensor.shape[axis] - crop.taps)
    return tensor


def _zero_ends(weight: State, axis: int) -> tuple[int, int]:
    """How many first and last taps along a spatial axis are zero in all channels; (0, 0) without numbers."""
    if weight.data is None:
        return 0, 0
    tensor = weight.data.tensor().detach()
    filled = [bool((piece != 0).any()) for piece in tensor.unbind(2 + axis)]
    return (filled.index(True), filled[::-1].index(True)) if any(filled) else (0, 0)


class KernelToSmallerKernel(Rule[Site]):
    """The kernel without idle border taps."""

    ops = frozenset({*CONVOLUTIONS, *TRANSPOSED})

    def match(self, node: Node) -> Site | NoMatch:
        """Some border taps are idle, and the padding can follow."""
        graph = node.graph
        assert graph is not None, "rules see nodes that are in a graph"
        weight = graph.state_of(node.operands[1])
        if weight is None:
            return NoMatch(f"{node.operands[1]!r} is computed at run time, needs a parameter")
        axes = axes_of(node, weight.type.static_shape[2:])
        if all(axis.kernel == 1 for axis in axes):
            return UNRELATED
        limits = tuple(_join(axis.idle(), _zero_ends(weight, number), axis.kernel) for number, axis in enumerate(axes))
        crops = tuple(idle_borders(axis, limit) for axis, limit in zip(axes, limits, strict=True))
        if any(crop.taps for crop in crops):
            return Site(node, weight, axes, crops)
        stuck = [number for number, limit in enumerate(limits) if limit != (0, 0)]
        return NoMatch(no_crop_reason(axes[stuck[0]], stuck[0], limits[stuck[0]])) if stuck else UNRELATED

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Slice the kernel, shrink the padding."""
        node, weight, crops = site.node, site.weight, site.crops
        shape = weight.type.static_shape
        kernel = tuple(axis.kernel - crop.taps for axis, crop in zip(site.axes, crops, strict=True))
        crop = partial(cropped_weight, crops=crops)
        small = rewriter.derive(
            folded_name(weight.name),
            crop,
            (weight.value,),
            TensorType(weight.type.dtype, (*shape[:2], *kernel), sparsity_left(weight, crop)),
            exact=True,
            kind=weight.kind,
            trainable=weight.trainable,
        )
        operands = (node.operands[0], small, *node.operands[2:])
        made = rewriter.create(node.op, operands, cropped_attrs(node, site.axes, crops), before=node)
        rewriter.replace(node, made.result)
        drop_orphans(rewriter, (weight,))


def _join(idle: tuple[int, int], zero: tuple[int, int], kernel: int) -> tuple[int, int]:
    """Taps that meet only padding and taps that are zero, at either end; one tap stays."""
    low = max(idle[0], zero[0])
    return low, min(max(idle[1], zero[1]), kernel - 1 - low)


@dataclass(frozen=True)
class RemoveIdleKernelBorders(RulePass):
    """Take border taps off kernels that are zero or only ever meet padding."""

    name = "remove-idle-kernel-borders"
    numeric = NumericClass.ROUNDING
    stage = Stage.DEPLOY
    rules = (KernelToSmallerKernel(),)
