"""Take out layers without a shortcut that matter least on calibration data.

    %a = relu(%x)   %b = conv2d(%a, %w, none)   %c = batch_norm(%b, ...)   %d = relu(%c)   %y = conv2d(%d, %v, none)
    -> %y = conv2d(%a, %v, none)                                       %w and the batch norm's parameters are gone

A layer is a convolution or linear layer with the norm, activation and dropout behind it. It can go where what comes
out has the type of what goes in, and nothing inside is read elsewhere; the layer that makes the network's output stays.
Layers in the branch of a residual block count too: the 3x3 convolution of a bottleneck.

Numeric class: lossy. Stage: training-safe; the parameters of removed layers go.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Graph
from graphopt.passes.shrink.blocks import Block, find_layers
from graphopt.passes.shrink.removal import PartRemoval

__all__ = ["RemoveLayers"]


@dataclass(frozen=True)
class RemoveLayers(PartRemoval):
    """Remove the layers that matter least where input and output types match."""

    name = "remove-layers"
    part = "layer"

    def find(self, graph: Graph) -> tuple[list[Block], list[tuple[str, str]]]:
        """Layers in execution order."""
        return find_layers(graph)
