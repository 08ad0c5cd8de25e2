"""Take out residual blocks and transformer layers that matter least on calibration data.

    %b = relu(%a)   %c = conv2d(%b, %w1, ...)   %d = add(%a, %c)   %y = linear(%d, %w2, none)
    -> %y = linear(%a, %w2, none)                                  %w1 is gone

A residual block is x + f(x) where nothing inside f is read elsewhere and both have the same type; blocks that change
the resolution or the width stay, with the reason. `unit="layer"` takes the blocks of one module together, as the
attention and the MLP of a transformer layer. The least influential goes first and the rest is measured again.

Numeric class: lossy. Stage: training-safe; the parameters of removed blocks go.
Source: block influence from Men et al., ShortGPT: Layers in Large Language Models are More Redundant Than You Expect,
2024 (measure="similarity"); attention and MLP apart as in He et al., What Matters in Transformers?, 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from graphopt.ir.graph import Graph
from graphopt.passes.shrink.blocks import Block, find_residual_blocks, merge_by_module
from graphopt.passes.shrink.removal import PartRemoval

__all__ = ["RemoveBlocks"]


@dataclass(frozen=True)
class RemoveBlocks(PartRemoval):
    """Remove the residual blocks that matter least."""

    name = "remove-blocks"
    part = "block"

    unit: Literal["block", "layer"] = field(
        default="block", metadata={"help": "each residual addition, or all of one module (a transformer layer) together"}
    )

    def find(self, graph: Graph) -> tuple[list[Block], list[tuple[str, str]]]:
        """Residual blocks in execution order."""
        found, skipped = find_residual_blocks(graph)
        return (merge_by_module(found) if self.unit == "layer" else found), skipped
