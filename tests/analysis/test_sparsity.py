"""Statistics of zeros."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphopt import ops
from graphopt.analysis import StateSparsity, sparsity, sparsity_table
from graphopt.errors import IRError
from graphopt.ir.graph import Graph
from graphopt.ir.types import DType, Sparsity, SparsityPattern, TensorType


def graph_of(tensor: torch.Tensor, annotation: Sparsity | None = None) -> Graph:
    builder = ops.builder()
    type_ = replace(TensorType(DType.f32, tuple(tensor.shape)), sparsity=annotation)
    builder.state("weight", type_, tensor)
    return builder.outputs()


def statistics(tensor: torch.Tensor, annotation: Sparsity | None = None) -> StateSparsity:
    (found,) = sparsity(graph_of(tensor, annotation))
    return found


def test_zeros_rows_and_columns() -> None:
    weight = torch.ones(4, 4)
    weight[1] = 0.0
    weight[:, 2] = -0.0
    weight[0, 0] = float("nan")
    found = statistics(weight)
    assert (found.elements, found.zeros, found.ratio) == (16, 7, 7 / 16)
    assert (found.zero_rows, found.zero_columns) == ((1,), (2,))
    assert not found.two_of_four
    assert found.holds is None


def test_two_of_four() -> None:
    weight = torch.tensor([[1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 1.0]])
    assert statistics(weight).two_of_four
    assert not statistics(torch.ones(2, 6)).two_of_four
    assert not statistics(torch.zeros(4)).two_of_four


@pytest.mark.parametrize(
    ("annotation", "holds"),
    [
        (Sparsity(SparsityPattern.UNSTRUCTURED, 0.5), True),
        (Sparsity(SparsityPattern.UNSTRUCTURED, 0.8), False),
        (Sparsity(SparsityPattern.BLOCK, 0.5, (2, 2)), True),
        (Sparsity(SparsityPattern.BLOCK, 0.5, (4, 1)), False),
        (Sparsity(SparsityPattern.N_M, 0.5, (2, 4)), True),
        (Sparsity(SparsityPattern.N_M, 0.75, (1, 4)), False),
    ],
)
def test_annotations_are_checked(annotation: Sparsity, holds: bool) -> None:
    weight = torch.ones(4, 4)
    weight[:2, :2] = 0.0
    weight[2:, 2:] = 0.0
    assert statistics(weight, annotation).holds is holds


def test_ragged_blocks() -> None:
    weight = torch.ones(3, 5)
    weight[2] = 0.0
    assert statistics(weight, Sparsity(SparsityPattern.BLOCK, 1 / 3, (2, 2))).holds


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 4)])
def test_small_shapes(shape: tuple[int, ...]) -> None:
    found = statistics(torch.zeros(shape))
    assert found.zeros == found.elements
    assert found.ratio == (1.0 if found.elements else 0.0)


def test_table_and_missing_data() -> None:
    weight = torch.ones(4, 4)
    text = sparsity_table(graph_of(weight, Sparsity(SparsityPattern.UNSTRUCTURED, 0.5)))
    assert text.splitlines()[1].endswith("0.0000          0             0  no   WRONG")
    builder = ops.builder()
    builder.state("weight", TensorType(DType.f32, (2,)))
    assert list(sparsity(builder.outputs())) == []


def test_meta_device() -> None:
    with pytest.raises(IRError, match="%weight is on the meta device, its zeros can't be counted"):
        statistics(torch.zeros(2, device="meta"))
