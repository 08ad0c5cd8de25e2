"""What a layer reads on calibration data: rows of its weight matrix's columns, and their moments.

A row is what one output reads: the features of a linear layer, or a patch of a convolution, channels x taps. Of a large
image as many random patches are taken as are needed for the moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from math import ceil

import torch

from graphopt.passes.shrink.patches import patches_of
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.patterns import NOfM, Pattern

__all__ = ["Inputs", "Moments", "input_rows", "moments", "square_means"]

_ROWS = 8192
"""Least number of rows that are looked at, as far as there are so many."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a layer reads in each batch: `now`, behind the layers that are sparse already, and in the `dense` network. The same object
    where nothing in front is sparse, or nobody asks."""

    now: Sequence[torch.Tensor]
    dense: Sequence[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Moments:
    """For x, what a layer reads now, and d, what it reads in the dense network: `gram` [columns, columns] is the mean of x x', `cross`
    that of d x', `mean` [columns] that of x, `dense_mean` that of d; float64."""

    gram: torch.Tensor
    cross: torch.Tensor
    mean: torch.Tensor
    dense_mean: torch.Tensor

    def centred(self) -> Moments:
        """Those of x and d less their means."""
        zero = torch.zeros_like(self.mean)
        gram = self.gram - torch.outer(self.mean, self.mean)
        cross = gram if self.cross is self.gram else self.cross - torch.outer(self.dense_mean, self.mean)
        return Moments(gram, cross, zero, zero)


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


def moments(layer: Layer, inputs: Inputs, pattern: Pattern, seed: int, groups: range, columns: slice) -> list[Moments]:
    """The moments of some columns, for each of some groups; the data is gone through once for all of them, as taking patches costs most.

    Memory: one or two matrices of that many columns squared for each group, and the rows of a batch.
    """
    is_same = inputs.dense is inputs.now
    sums = [_Sums() for _ in groups]
    dense_rows = repeat(None) if is_same else input_rows(layer, inputs.dense, pattern, seed)  # the same patches: the seed is the same
    for rows, dense in zip(input_rows(layer, inputs.now, pattern, seed), dense_rows, strict=not is_same):
        for found, group in zip(sums, groups, strict=True):
            found.add(rows[group, :, columns].double(), None if dense is None else dense[group, :, columns].double())
    return [found.moments() for found in sums]


class _Sums:
    """What the moments of one group are means of."""

    def __init__(self) -> None:
        self._gram = self._cross = self._mean = self._dense_mean = torch.zeros(())
        self._count = 0
        self._is_same = True

    def add(self, x: torch.Tensor, dense: torch.Tensor | None) -> None:
        """Take in rows [rows, columns], float64."""
        self._gram = self._gram + x.T @ x
        self._mean = self._mean + x.sum(0)
        self._count += len(x)
        if dense is not None:
            self._is_same = False
            self._cross = self._cross + dense.T @ x
            self._dense_mean = self._dense_mean + dense.sum(0)

    def moments(self) -> Moments:
        """The means."""
        count = max(self._count, 1)
        gram, mean = self._gram / count, self._mean / count
        return Moments(gram, gram, mean, mean) if self._is_same else Moments(gram, self._cross / count, mean, self._dense_mean / count)


def square_means(layer: Layer, values: Sequence[torch.Tensor], pattern: Pattern, seed: int) -> torch.Tensor:
    """The mean square of each column, [groups, columns], float64."""
    total = torch.zeros(())
    count = 0
    for rows in input_rows(layer, values, pattern, seed):
        total = total + rows.double().square().sum(1)
        count += rows.shape[1]
    return total / max(count, 1)
