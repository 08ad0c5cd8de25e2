"""Layers as linear maps of what they read: the rows of a regression, and weights from its solution.

    linear     x [..., in]                              a row per position, features: the inputs
    matmul     x [..., in] by a weight [in, out]        the same
    conv{1,2,3}d  x [batch, channels, spatial...]        a row per output position, features: the channels of a group
                                                        times the kernel (im2col), with stride, padding, dilation

A layer has `groups` regressions of their own: those of a grouped convolution, else one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from graphopt.errors import PassError
from graphopt.ir.graph import Node, Value
from graphopt.passes.shrink.patches import windows_of

__all__ = ["CHUNK_ELEMENTS", "LinearLayer", "is_linear_layer", "linear_layer"]

CHUNK_ELEMENTS = 1 << 25
"""Features that are held in float64 at a time: 256 MB."""

_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


def is_linear_layer(node: Node) -> bool:
    """True for the ops of the table above."""
    if node.op == "matmul":
        weight, x = node.operands[1], node.operands[0]
        return isinstance(weight, Value) and isinstance(x, Value) and weight.type.rank == 2 and x.type.rank >= 2
    return node.op == "linear" or node.op in _CONVOLUTIONS


def linear_layer(node: Node) -> LinearLayer:
    """The node as a linear map.

    Raises:
        PassError: it is none.
    """
    if not is_linear_layer(node):
        raise PassError(f"%{node.name} is a {node.op}, needs linear, matmul with a weight, conv1d, conv2d or conv3d", where=repr(node))
    spatial = _CONVOLUTIONS.get(node.op, 0)
    shape = node.value(1).type.static_shape
    groups = node.attrs.get("groups", 1)
    assert isinstance(groups, int), "kinds of attributes are checked by the verifier"
    if spatial:
        features = 1
        for size in shape[1:]:
            features *= size
        return LinearLayer(node, spatial, groups, features, shape[0] // groups)
    inputs, outputs = shape if node.op == "matmul" else (shape[1], shape[0])
    return LinearLayer(node, 0, 1, inputs, outputs)


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A layer with `groups` maps of `features` inputs to `outputs` outputs each; `spatial` is 0 for linear layers."""

    node: Node
    spatial: int
    groups: int
    features: int
    outputs: int

    @property
    def has_bias(self) -> bool:
        """True when the layer adds a bias."""
        return len(self.node.operands) > 2 and isinstance(self.node.operands[2], Value)

    def channel_axis(self, output: torch.Tensor) -> int:
        """The axis of the layer's result (or input) that the channels are on."""
        return output.dim() - 1 - self.spatial

    def row_count(self, output: torch.Tensor) -> int:
        """Rows that one run of the layer gives: result elements per channel."""
        return output.numel() // max(output.shape[self.channel_axis(output)], 1)

    def rows(self, x: torch.Tensor, output: torch.Tensor, chosen: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Features and the numbers of a result-shaped tensor, for the chosen rows, in chunks of float64.

        `chosen` holds row numbers below `row_count`, in order of the result without its channel axis. Yields
        ([groups, rows, features], [groups, rows, outputs]).
        """
        windows = self._windows(x)
        channels_last = output.movedim(self.channel_axis(output), -1)
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
        shape = self.node.value(1).type.static_shape
        if self.node.op == "matmul":
            return slope[0]
        return slope.transpose(1, 2).reshape(shape)

    def _windows(self, x: torch.Tensor) -> torch.Tensor:
        """A view of the input with the axes of the result but its channels first, then the features."""
        return windows_of(self.node, x, self.node.value(1).type.static_shape[2:]) if self.spatial else x
