"""Which annotation is true of what a cut leaves of a sparse weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from graphopt.analysis.sparsity import annotation_holds
from graphopt.analysis.sparsity_patterns import sparsity_left
from graphopt.ir.data import TensorData
from graphopt.ir.graph import State, Value
from graphopt.ir.types import DType, Sparsity, SparsityPattern, TensorType

N_M, BLOCK, UNSTRUCTURED = SparsityPattern.N_M, SparsityPattern.BLOCK, SparsityPattern.UNSTRUCTURED


def _state(numbers: torch.Tensor, annotation: Sparsity | None) -> State:
    return State(Value("weight", TensorType(DType.f32, tuple(numbers.shape), annotation)), "param", TensorData(numbers))


def _two_of_four() -> tuple[torch.Tensor, Sparsity]:
    return torch.ones(16, 16) * (torch.arange(16) % 4 < 2), Sparsity(N_M, 0.5, (2, 4))


def _blocks() -> tuple[torch.Tensor, Sparsity]:
    kept = torch.rand(4, 16, generator=torch.Generator().manual_seed(2)) < 0.4
    numbers = torch.ones(16, 16) * kept.repeat_interleave(4, 0)
    return numbers, Sparsity(BLOCK, int((numbers == 0).sum()) / 256, (4, 1))


def _scattered() -> tuple[torch.Tensor, Sparsity]:
    return torch.ones(16, 16) * (torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.2), Sparsity(UNSTRUCTURED, 0.8)


@pytest.mark.parametrize(
    ("made", "axis", "kept", "pattern", "shape"),
    [
        (_two_of_four, 0, [0, 3, 5], N_M, (2, 4)),
        (_two_of_four, 1, [0, 1, 2, 3, 8, 9, 10, 11], N_M, (2, 4)),
        (_two_of_four, 1, [0, 1, 4, 6, 8, 9, 12, 15], N_M, (3, 4)),
        (_blocks, 1, [0, 2, 7], BLOCK, (4, 1)),
        (_blocks, 0, [4, 5, 6, 7, 12, 13, 14, 15], BLOCK, (4, 1)),
        (_blocks, 0, [0, 1, 4, 5, 8, 9], BLOCK, (2, 1)),
        (_blocks, 0, [0, 1, 2, 4, 8, 12, 13], UNSTRUCTURED, (1, 1)),
        (_scattered, 0, [1, 2, 3, 8], UNSTRUCTURED, (1, 1)),
    ],
)
def test_a_pattern_stays_where_it_fits_and_the_ratio_is_true(
    made: Callable[[], tuple[torch.Tensor, Sparsity]], axis: int, kept: list[int], pattern: SparsityPattern, shape: tuple[int, int]
) -> None:
    numbers, annotation = made()
    left = numbers.index_select(axis, torch.tensor(kept))
    found = sparsity_left(_state(numbers, annotation), lambda tensor: tensor.index_select(axis, torch.tensor(kept)))
    assert found is not None
    assert (found.pattern, found.shape) == (pattern, shape)
    assert found.ratio == int((left == 0).sum()) / left.numel()
    assert annotation_holds(left, found)


def test_a_zero_beside_the_blocks_is_not_forgotten() -> None:
    numbers, annotation = _blocks()
    numbers[numbers.nonzero()[0, 0], numbers.nonzero()[0, 1]] = 0
    found = sparsity_left(_state(numbers, annotation), lambda tensor: tensor[:, :12])
    assert found == Sparsity(UNSTRUCTURED, int((numbers[:, :12] == 0).sum()) / (16 * 12))


def test_nothing_is_said_without_annotation_zeros_or_numbers() -> None:
    numbers, annotation = _two_of_four()
    assert sparsity_left(_state(numbers, None), lambda tensor: tensor[:8]) is None
    assert sparsity_left(_state(numbers, annotation), lambda tensor: tensor[:, :2]) is None
    assert sparsity_left(_state(numbers.to("meta"), annotation), lambda tensor: tensor[:8]) is None
    assert sparsity_left(replace(_state(numbers, annotation), data=None), lambda tensor: tensor[:8]) is None


def test_a_vector_has_no_pattern_but_a_ratio() -> None:
    found = sparsity_left(_state(torch.tensor([0.0, 1, 0, 0, 2, 0]), Sparsity(UNSTRUCTURED, 2 / 3)), lambda tensor: tensor[1:])
    assert found == Sparsity(UNSTRUCTURED, 0.6)
