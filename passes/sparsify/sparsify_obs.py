"""Weights become zero and the others of their output make up for it, by second-order information of the layer's inputs.

    param %fc.weight: f32[768,768]
    -> param %fc.weight: f32[768,768] sparse<unstructured 0.5>        and other numbers in what stays

The error of a layer's outputs on calibration data decides which weights go, and the rest is fitted to keep the outputs
(`graphopt.passes.sparsify.obs`): those that the layer has in the dense network, so that layers make up for those in front of
them; with `match="layer"` those that its own weights give on what arrives. Where the layer has a bias of its own, it takes up
the mean of what is lost. Where zeros by size, or by size times input, come nearer to these outputs once the others are fitted,
those are taken. A layer keeps the zeros that it has; one that was made sparse before is fitted to its own weights,
and its bias makes up for layers in front also where it gets no more zeros.

A layer that reads more numbers at once than are solved together (6144) is solved in parts, as if the parts were uncorrelated.

Numeric class: lossy. Stage: training-safe; weights keep names and shapes.
Sources: Hassibi & Stork, Optimal Brain Surgeon, NIPS 1992; Frantar & Alistarh, SparseGPT, ICML 2023; outputs of the dense
network as the aim: Li et al., GPTAQ, ICML 2025 (there for quantisation).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import torch

from graphopt.ir.graph import Graph, State
from graphopt.passes.shrink.layers import own_weight
from graphopt.passes.sparsify.data_aware import DataAwarePass, Solution
from graphopt.passes.sparsify.inputs import Inputs, Moments, moments
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.obs import aimed, best_pruned
from graphopt.passes.sparsify.patterns import Pattern, column_block, from_matrix, to_matrix

__all__ = ["SparsifyOBS"]

_AIM_DAMPING = 0.1
"""Errors in front are made up for where the calibration data shows them clearly: in parts of the mean diagonal of the second moments."""

_SPARSE_ALREADY = 0.01
"""Share of zeros above which a matrix was made sparse before; trained ones have a few by chance."""

_WIDEST = 6144
"""Most columns that are solved together: a matrix of them has 302 MB, and up to eight are alive."""


@dataclass(frozen=True)
class SparsifyOBS(DataAwarePass):
    """Set weights to zero and update the others, layer by layer (SparseGPT)."""

    name = "sparsify-obs"

    damping: float = field(
        default=0.01, metadata={"minimum": 0.0, "help": "added to the diagonal of the second moments, in parts of its mean"}
    )
    refine: int = field(default=8, metadata={"minimum": 0, "help": "steps of conjugate gradients over all weights that stay"})

    match: Literal["dense", "layer"] = field(
        default="dense",
        metadata={"help": "outputs to keep: those of the layer in the dense network, or of its own weights on what arrives now"},
    )

    def compares(self) -> bool:
        """With `match="dense"`."""
        return self.match == "dense"

    def solve(self, graph: Graph, layer: Layer, inputs: Inputs, pattern: Pattern, ratio: float, seed: int) -> Solution:
        """Solve one layer, group by group."""
        node = layer.nodes[0]
        matrix = to_matrix(layer.numbers(), layer, pattern)
        bias = own_weight(graph, node, 2) if node.operands[2] is not None else None
        has_bias = isinstance(bias, State)
        result, goes = torch.empty_like(matrix), torch.zeros(matrix.shape, dtype=torch.bool)
        shift = torch.zeros(layer.groups, layer.outputs, dtype=torch.float64)
        width = column_block(pattern, _WIDEST)
        together = max(1, _WIDEST**2 // min(matrix.shape[2], width) ** 2)  # groups whose moments take no more than those of one wide layer
        for first, start in product(range(0, layer.groups, together), range(0, matrix.shape[2], width)):
            groups, part = range(first, min(first + together, layer.groups)), slice(start, start + width)
            for group, found in zip(groups, moments(layer, inputs, pattern, seed, groups, part), strict=True):
                used = found.centred() if has_bias else found
                old = matrix[group, :, part]
                aim = _aim(old, used)
                pruned = best_pruned(old, used.gram, pattern, ratio, damping=self.damping, steps=self.refine, aim=aim)
                result[group, :, part], goes[group, :, part] = pruned.weight, pruned.goes
                if has_bias:
                    shift[group] += old @ found.dense_mean - pruned.weight @ found.mean
        assert layer.weight.data is not None, "find_layers asked for numbers"
        if not bool((goes & (matrix != 0)).any()) and not _sparse_already(matrix):
            return Solution(layer.weight.data.tensor())  # a layer that has no room for a zero stays as it is, its bias too
        weight = torch.where(from_matrix(goes, layer, pattern), 0.0, from_matrix(result, layer, pattern)).to(
            layer.weight.data.tensor().dtype
        )
        moved = None
        if isinstance(bias, State) and bias.data is not None:
            numbers = bias.data.tensor()
            moved = (numbers.double().cpu() + shift.reshape(-1)).to(numbers.dtype)
        notes = (f"{layer.name}: {matrix.shape[2]} columns were solved in parts of {width}",) if matrix.shape[2] > width else ()
        return Solution(weight, moved, notes)


def _aim(weight: torch.Tensor, moments: Moments) -> torch.Tensor | None:
    """The weights that come nearest to the dense network's outputs, with the zeros of `weight`; None where they are `weight` itself.

    Of a matrix that is sparse already the fitted weights without those on its zeros would be no fit: it keeps to its own.
    """
    if moments.cross is moments.gram or _sparse_already(weight):
        return None
    return torch.where(weight == 0, 0.0, aimed(weight, moments.gram, moments.cross, damping=_AIM_DAMPING))


def _sparse_already(weight: torch.Tensor) -> bool:
    return float((weight == 0).double().mean()) > _SPARSE_ALREADY
