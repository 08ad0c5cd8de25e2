"""Whole blocks of small weights become zero: R output channels x C inputs.

    param %fc.weight: f32[768,768]
    -> param %fc.weight: f32[768,768] sparse<block 4x1 0.8>

Kernels read an input once for all rows of a block, so blocks of 4x1 run faster than single weights at the same ratio.
A block's score is the mean over its weights, by default of their squares. C counts numbers of the rest of the weight
flattened: inputs of a linear layer or 1x1 convolution, inputs and then taps of other convolutions. Blocks at the ends of
an axis may be smaller; the ratio is exact to one block.

Numeric class: lossy. Stage: training-safe; weights keep names, shapes and ties, and those that stay keep their bits.
Source: Narang et al., Block-Sparse Recurrent Neural Networks, 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from graphopt.errors import PassOptionError
from graphopt.ir.graph import Graph
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.masking import MaskingPass
from graphopt.passes.sparsify.patterns import Blocks, Pattern
from graphopt.passes.sparsify.scores import WeightScores, weight_scores
from graphopt.pipeline.context import Context

__all__ = ["SparsifyBlock"]


@dataclass(frozen=True)
class SparsifyBlock(MaskingPass):
    """Set the blocks of the smallest weights to zero."""

    name = "sparsify-block"

    block: tuple[int, int] = field(default=(4, 1), metadata={"help": "output channels and inputs of a block"})
    importance: Literal["magnitude", "taylor", "movement"] = field(
        default="magnitude", metadata={"help": "what weights are ranked by; the last two need calibration data"}
    )

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PassOptionError: an option has the wrong type or is out of its range.
        """
        super().__post_init__()
        if min(self.block) < 1:
            raise PassOptionError(f"block is {self.block}, needs two positive sizes, as in block=(4, 1)")

    def pattern(self) -> Pattern:
        """Blocks."""
        return Blocks(*self.block)

    def scores(self, graph: Graph, layers: Sequence[Layer], context: Context) -> WeightScores:
        """As `importance` says."""
        return weight_scores(graph, layers, self.importance, context)
