"""Which pattern the zeros of a weight follow, looking at the numbers alone.

    fitting_pattern(weight)      Sparsity N:M, block or unstructured; None for a weight without zeros
    sparsity_left(state, take)   the annotation of what a cut leaves of a sparse weight

A pattern fits when it holds for all numbers, ragged blocks at the ends included, and when it explains them: every zero is in
a block that is zero as a whole, or at most a twentieth more of the weights are zero than N:M makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.analysis.sparsity import block_ratio, keeps_n_of_m
from graphopt.ir.state import State
from graphopt.ir.types import Sparsity, SparsityPattern

if TYPE_CHECKING:
    import torch

__all__ = ["BLOCKS", "fitting_pattern", "sparsity_left"]

BLOCKS: tuple[tuple[int, int], ...] = (
    (16, 16), (8, 8), (4, 4), (16, 1), (1, 16), (8, 1), (1, 8), (2, 2), (4, 1), (1, 4), (2, 1), (1, 2),
)  # fmt: skip
"""Blocks that are looked for, larger ones first; of equal ones those along output channels."""

_GROUPS = (4, 8, 16)
_MORE = 0.05
_FEWEST_UNITS = 8
"""A pattern of fewer groups or blocks says nothing."""


def fitting_pattern(numbers: torch.Tensor, axis: int = 1) -> Sparsity | None:
    """The pattern of the zeros of a weight of two axes or more; inputs are along `axis`.

    N:M is looked for first, with the smallest M, then blocks, largest first. Memory: masks of the weight.
    """
    filled = numbers != 0
    total = filled.numel()
    zeros = total - int(filled.sum())
    if not zeros or filled.dim() < 2:
        return None
    ratio = zeros / total
    for m in _GROUPS:
        if filled.shape[axis] % m or total // m < _FEWEST_UNITS:
            continue
        groups = filled.movedim(axis, -1).reshape(-1, m).sum(1)
        n = max(1, int(groups.max()))
        if n < m and ratio <= 1 - n / m + _MORE and keeps_n_of_m(filled, n, m, axis):
            return Sparsity(SparsityPattern.N_M, ratio, (n, m), axis)
    if axis == 1:
        for shape in BLOCKS:
            if total // (shape[0] * shape[1]) >= _FEWEST_UNITS and _only_whole_blocks(filled, shape, zeros):
                return Sparsity(SparsityPattern.BLOCK, zeros / total, shape)
    return Sparsity(SparsityPattern.UNSTRUCTURED, ratio)


def sparsity_left(state: State, take: Callable[[torch.Tensor], torch.Tensor]) -> Sparsity | None:
    """The annotation of what `take` leaves of a weight: its pattern where that still fits, else the one that does.

    None where the weight is not annotated, where no zero is left, and where there are no numbers to tell.
    """
    old = state.type.sparsity
    tensor = None if old is None or state.data is None else state.data.tensor().detach()
    if old is None or tensor is None or tensor.is_meta:
        return None
    left = take(tensor)
    filled = left != 0
    zeros = filled.numel() - int(filled.sum())
    if not zeros:
        return None
    if _still_fits(filled, zeros, old):
        return replace(old, ratio=zeros / filled.numel())
    return fitting_pattern(left, old.axis) or Sparsity(SparsityPattern.UNSTRUCTURED, zeros / filled.numel())


def _still_fits(filled: torch.Tensor, zeros: int, old: Sparsity) -> bool:
    """Blocks fit where they hold all zeros: one beside them is a zero like any other, and has to be known as such."""
    match old.pattern:
        case SparsityPattern.UNSTRUCTURED:
            return True
        case SparsityPattern.N_M:
            return filled.dim() > old.axis and keeps_n_of_m(filled, *old.shape, old.axis)
        case SparsityPattern.BLOCK:
            return filled.dim() > 1 and _only_whole_blocks(filled, old.shape, zeros)


def _only_whole_blocks(filled: torch.Tensor, shape: tuple[int, int], zeros: int) -> bool:
    matrix = filled.flatten(1)
    if matrix.shape[0] < shape[0] or matrix.shape[1] < shape[1]:
        return False
    return round(block_ratio(filled, shape) * filled.numel()) == zeros
