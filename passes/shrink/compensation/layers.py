"""Layers as linear maps of what they read: the rows of a regression, and weights from its solution.

    linear     x [..., in]                              a row per position, features: the inputs
    matmul     x [..., in] by a weight [in, out]        the same, see `graphopt.passes.shrink.products`
    einsum     of x and a weight                        the same
    conv{1,2,3}d  x [batch, channels, spatial...]        a row per output position, features: the channels of a group
                                                        times the kernel (im2col), with stride, padding, dilation

A layer has `groups` regressions of their own: those of a grouped convolution, else one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from graphopt.errors import PassError
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node
from graphopt.passes.shrink.patches import windows_of
from graphopt.passes.shrink.products import Product, product_of

__all__ = ["CHUNK_ELEMENTS", "LinearLayer", "columns_of", "is_linear_layer", "linear_layer"]

CHUNK_ELEMENTS = 1 << 25
"""Features that are held in float64 at a time: 256 MB."""

_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


def is_linear_layer(node: Node) -> bool:
    """True for the ops of the table above."""
    return node.op in _CONVOLUTIONS or product_of(node) is not None


def columns_of(node: Node) -> tuple[Dim, ...]:
    """The sizes of a layer's weight along the axes of its features."""
    product = product_of(node)
    return node.value(1).shape[1:] if product is None else tuple(node.value(product.weight).shape[axis] for axis in product.feature_axes)


def linear_layer(node: Node) -> LinearLayer:
    """The node as a linear map.

    Raises:
        PassError: it is none.
    """
    product = product_of(node)
    if product is not None:
        return LinearLayer(node, 0, 1, product.feature_count, product.output_count, product)
    if node.op not in _CONVOLUTIONS:
        needs = "needs linear, conv1d, conv2d, conv3d, or matmul or einsum with a weight"
        raise PassError(f"%{node.name} is a {node.op}, {needs}", where=repr(node))
    shape = node.value(1).type.static_shape
    groups = node.attrs["groups"]
    assert isinstance(groups, int), "kinds of attributes are checked by the verifier"
    return LinearLayer(node, _CONVOLUTIONS[node.op], groups, math.prod(shape[1:]), shape[0] // groups)


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A layer with `groups` maps of `features` inputs to `outputs` outputs each; `product` is None for convolutions, which have
    `spatial` axes.
    """

    node: Node
    spatial: int
    groups: int
    features: int
    outputs: int
    product: Product | None = None

    def row_count(self, output: torch.Tensor) -> int:
        """Rows that one run of the layer gives: result elements per channel."""
        return output.numel() // max(self.groups * self.outputs, 1)

    def rows(self, x: torch.Tensor, output: torch.Tensor, chosen: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Features and the numbers of a result-shaped tensor, for the chosen rows, in chunks of float64.

        `chosen` holds row numbers below `row_count`, in order of the result without its channel axis. Yields
        ([groups, rows, features], [groups, rows, outputs]).
        """
        windows, channels_last = self._windows(x), self._channels_last(output)
        if channels_last.dim() == 1:  # a single row
            windows, channels_last = windows.unsqueeze(0), channels_last.unsqueeze(0)
        positions = tuple(channels_last.shape[:-1])
        flat_targets = channels_last.reshape(-1, channels_last.shape[-1])
        step = max(64, CHUNK_ELEMENTS // max(self.groups * self.features, 1))
        for part in chosen.split(step):
            index = torch.unravel_index(part, positions)
            features = windows[index].reshape(len(part), self.groups, self.features).transpose(0, 1)
            targets = flat_targets[part].reshape(len(part), self.groups, self.outputs).transpose(0, 1)
            yield features.to(torch.float64), targets.to(torch.float64)

    def weight_change(self, slope: torch.Tensor) -> torch.Tensor:
        """[groups, features, outputs] in the layout of the weight, float64."""
        if self.product is not None:
            return self.product.weight_of(slope[0].T)
        return slope.transpose(1, 2).reshape(self.node.value(1).type.static_shape)

    def _windows(self, x: torch.Tensor) -> torch.Tensor:
        """A view of the input with the axes of the result but its channels first, then the features."""
        if self.product is not None:
            return self.product.input_rows(x)
        return windows_of(self.node, x, self.node.value(1).type.static_shape[2:])

    def _channels_last(self, output: torch.Tensor) -> torch.Tensor:
        if self.product is not None:
            return self.product.output_rows(output)
        return output.movedim(output.dim() - 1 - self.spatial, -1)
