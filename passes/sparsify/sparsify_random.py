"""Random weights become zero: the baseline that other methods have to beat.

    param %conv.weight: f32[64,64,3,3]
    -> param %conv.weight: f32[64,64,3,3] sparse<unstructured 0.8>

The choice is repeatable with the pipeline's seed, and a larger ratio takes out what a smaller one does and more.

Numeric class: lossy. Stage: training-safe; weights keep names, shapes and ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Graph
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.masking import MaskingPass
from graphopt.passes.sparsify.patterns import Pattern, Unstructured
from graphopt.passes.sparsify.scores import WeightScores, random_scores
from graphopt.pipeline.context import Context

__all__ = ["SparsifyRandom"]


@dataclass(frozen=True)
class SparsifyRandom(MaskingPass):
    """Set random weights to zero."""

    name = "sparsify-random"

    def pattern(self) -> Pattern:
        """Each weight by itself."""
        return Unstructured()

    def scores(self, graph: Graph, layers: Sequence[Layer], context: Context) -> WeightScores:
        """Uniform random numbers."""
        return random_scores(layers, context.seed)
