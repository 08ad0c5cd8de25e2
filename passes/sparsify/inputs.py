"""What a layer reads on calibration data: rows of its weight matrix's columns, and their moments.

A row is what one output reads: the features of a linear layer, or a patch of a convolution, channels x taps. Of a large
image as many random patches are taken as are needed for the moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch

from graphopt.passes.shrink.patches import patches_of
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.patterns import NOfM, Pattern

__all__ = ["Moments", "input_rows", "moments", "square_means"]

_ROWS = 8192
"""Least number of rows that are looked at, as far as there are so many."""


@dataclass(frozen=True, slots=True)
class Moments:
    """`gram` [columns, columns] is the mean of x x', `mean` [columns] that of x; float64."""

    gram: torch.Tensor
    mean: torch.Tensor

    def centred(self) -> torch.Tensor:
        """The mean of (x - mean) (x - mean)'."""
        return self.gram - torch.outer(self.mean, self.mean)


def input_rows(layer: Layer, values: Sequence[torch.Tensor], pattern: Pattern, seed: int) -> Iterator[torch.Tensor]:
    """Rows [groups, rows, columns] for each batch, columns in the order of `to_matrix`, in the dtype of the values."""
    node = layer.nodes[0]
    if node.op == "linear":
        for x in values:
            yield x.detach().cpu().reshape(1, -1, x.shape[-1])
        return
    kernel = layer.shape[2:]
    generator = torch.Generator().manual_seed(abs(seed))
    images = sum(x.shape[0] if x.dim() == len(kernel) + 2 else 1 for x in values)
    columns = layer.elements // layer.shape[0]
    wanted = ceil(max(_ROWS, 4 * columns) / max(images, 1))
    for x in values:
        batched = x if x.dim() == len(kernel) + 2 else x.unsqueeze(0)
        patches = patches_of(node, batched.detach().cpu(), kernel, wanted, generator)  # [images, positions, channels, taps]
        grouped = patches.reshape(-1, layer.groups, layer.inputs, patches.shape[-1])
        ordered = grouped.transpose(2, 3) if isinstance(pattern, NOfM) else grouped
        yield ordered.reshape(len(grouped), layer.groups, -1).transpose(0, 1)


def moments(layer: Layer, values: Sequence[torch.Tensor], pattern: Pattern, seed: int, group: int, columns: slice) -> Moments:
    """The moments of some columns of one group. Memory: one matrix of that many columns squared, and the rows of a batch."""
    gram = mean = torch.zeros(())
    count = 0
    for rows in input_rows(layer, values, pattern, seed):
        x = rows[group, :, columns].double()
        gram = gram + x.T @ x
        mean = mean + x.sum(0)
        count += len(x)
    return Moments(gram / max(count, 1), mean / max(count, 1))


def square_means(layer: Layer, values: Sequence[torch.Tensor], pattern: Pattern, seed: int) -> torch.Tensor:
    """The mean square of each column, [groups, columns], float64."""
    total = torch.zeros(())
    count = 0
    for rows in input_rows(layer, values, pattern, seed):
        total = total + rows.double().square().sum(1)
        count += rows.shape[1]
    return total / max(count, 1)
