"""Weights that carry least to their output become zero: size of the weight times size of what it reads.

    param %fc.weight: f32[768,768]
    -> param %fc.weight: f32[768,768] sparse<unstructured 0.5>

    score[o, i] = |w[o, i]| * |x[i]|,    |x[i]| the root mean square of input i on calibration data

Scores are compared within each output, which all end up with the same ratio (to one weight), or each row of blocks. The
weights that stay are not changed; `sparsify-obs` does that.

Numeric class: lossy. Stage: training-safe; weights keep names and shapes, and those that stay keep their bits.
Source: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024 (Wanda).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir.graph import Graph
from graphopt.passes.sparsify.apply import masked
from graphopt.passes.sparsify.data_aware import DataAwarePass, Solution
from graphopt.passes.sparsify.inputs import Inputs, square_means
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.patterns import Pattern, UnitPattern, from_matrix, to_matrix

__all__ = ["SparsifyWanda"]


@dataclass(frozen=True)
class SparsifyWanda(DataAwarePass):
    """Set the weights with the smallest product with their inputs to zero."""

    name = "sparsify-wanda"

    def solve(self, graph: Graph, layer: Layer, inputs: Inputs, pattern: Pattern, ratio: float, seed: int) -> Solution:
        """Rank the weights of one layer."""
        squares = to_matrix(layer.numbers().square(), layer, pattern) * square_means(layer, inputs.now, pattern, seed).unsqueeze(1)
        scores = from_matrix(squares, layer, pattern)
        if isinstance(pattern, UnitPattern):
            goes = _lowest_of_rows(pattern, scores.reshape(scores.shape[0], -1), ratio).reshape(scores.shape)
        else:
            goes = pattern.goes(scores, layer, ratio)
        assert layer.weight.data is not None, "find_layers asked for numbers"
        return Solution(masked(layer.weight.data.tensor(), goes))


def _lowest_of_rows(pattern: UnitPattern, scores: torch.Tensor, ratio: float) -> torch.Tensor:
    """A mask of the units of least score of each row; what one row has too little by rounding, the next has more."""
    units, _ = pattern.unit_scores(scores)
    rows, count = units.shape
    ends = (torch.arange(rows + 1, dtype=torch.float64) * (ratio * count) + 0.5).floor()
    ranks = units.argsort(dim=1, stable=True).argsort(dim=1)
    return pattern.spread(ranks < (ends[1:] - ends[:-1]).unsqueeze(1), *scores.shape)
