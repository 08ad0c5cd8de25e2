"""Numbers for the states of a random network: sized so that values neither vanish nor explode."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor, State
from graphopt.ir.types import SparsityPattern

__all__ = ["fill"]


def fill(graph: Graph, seed: int) -> None:
    """Give every state random numbers: weights by fan-in, variances positive, sparse ones with zeros as annotated."""
    generator = torch.Generator().manual_seed(seed)
    editor = GraphEditor(graph)
    for state in tuple(graph.states.values()):
        editor.update_state(replace(state, data=TensorData(_numbers(state, generator))))


def _numbers(state: State, generator: torch.Generator) -> torch.Tensor:
    shape = state.type.static_shape
    numbers = torch.randn(shape, generator=generator)
    if "running_var" in state.name:
        return numbers.abs() + 0.25
    if len(shape) < 2:
        return numbers * 0.2 + (1.0 if "scale" in state.name else 0.0)
    numbers *= 1.0 / math.sqrt(math.prod(shape[1:]))
    if state.type.sparsity is not None:
        numbers *= _mask(state, generator)
        numbers /= math.sqrt(max(1e-3, 1 - state.type.sparsity.ratio))
    return numbers


def _mask(state: State, generator: torch.Generator) -> torch.Tensor:
    """1 where a number stays. At least the annotated share of zeros, in the annotated pattern."""
    sparsity = state.type.sparsity
    assert sparsity is not None, "only annotated states have a mask"
    shape = state.type.static_shape
    if sparsity.pattern is SparsityPattern.UNSTRUCTURED:
        order = torch.randperm(math.prod(shape), generator=generator)
        mask = torch.ones(math.prod(shape))
        mask[order[: math.ceil(sparsity.ratio * math.prod(shape))]] = 0.0
        return mask.view(shape)
    if sparsity.pattern is SparsityPattern.BLOCK:
        return _block_mask(shape, sparsity.shape, sparsity.ratio, generator)
    keep, of = sparsity.shape
    groups = torch.rand(shape, generator=generator).movedim(sparsity.axis, -1).unflatten(-1, (-1, of))
    mask = groups >= groups.topk(keep, dim=-1).values[..., -1:]
    return mask.flatten(-2).movedim(-1, sparsity.axis).float()


def _block_mask(shape: tuple[int, ...], block: tuple[int, int], ratio: float, generator: torch.Generator) -> torch.Tensor:
    """Blocks over axis 0 and the rest flattened; those at the ends may be smaller."""
    height, width = shape[0], math.prod(shape[1:])
    rows, columns = -(-height // block[0]), -(-width // block[1])
    ids = torch.arange(rows * columns).view(rows, columns).repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:height, :width]
    order = torch.randperm(rows * columns, generator=generator)
    covered = torch.bincount(ids.flatten(), minlength=rows * columns)[order].cumsum(0)
    dropped = order[: int((covered < ratio * height * width).sum()) + 1]
    return (~torch.isin(ids, dropped)).float().view(shape)
