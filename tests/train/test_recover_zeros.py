"""recover() keeps zeros zero and annotations true."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.analysis.sparsity import sparsity
from graphopt.ir.verifier import verify_structure
from graphopt.train import SparseSGD, masks_of, recover
from tests.support.recovering import ROWS, batches


@pytest.fixture(scope="module")
def annotated() -> graphopt.Graph:
    """A graph with a weight in blocks of zeros and one 2:4 sparse, annotated."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    passes = ['sparsify-block{block=(4, 1), ratio=0.5, only=("1",), dense_ends=false}', 'sparsify-n-m{n=2, m=4, only=("3",)}']
    return graphopt.optimize(module, passes, example_inputs=(torch.randn(ROWS, 1, 4, 4),), dynamic={"input": {0: "batch"}}).graph


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_any_optimizer_keeps_zeros_and_annotations_true(make: Any, annotated: graphopt.Graph) -> None:
    def optimizer(named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        return make([parameter for _, parameter in named], lr=0.05, weight_decay=0.01)

    found = recover(annotated, batches(labels=True), epochs=2, optimizer=optimizer, accelerate=False)
    assert found.graph is not None
    assert found.corrected == ()
    masks = masks_of(annotated)
    assert sorted(masks) == ["1.weight", "3.weight"]
    for name, mask in masks.items():
        assert found.graph.states[name].type == annotated.states[name].type
        weight = found.module.get_parameter(name).detach()
        assert (weight[~mask].view(torch.int32) == 0).all()
        assert not torch.equal(weight, annotated.to_module().get_parameter(name))
    assert [statistics.holds for statistics in sparsity(found.graph) if statistics.holds is not None] == [True, True]


def test_annotations_that_are_trained_away_are_corrected(annotated: graphopt.Graph) -> None:
    def dense(named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        masks = {name: mask for name, mask in masks_of(annotated).items() if name == "3.weight"}
        masks["3.weight"] = masks["3.weight"] & (torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) < 0.9)
        masks["3.weight"][0, :4] = True  # not 2:4 any more, and still sparse
        return SparseSGD(named, lr=0.05, masks=masks)

    found = recover(annotated, batches(labels=True), epochs=2, optimizer=dense, accelerate=False)
    assert found.graph is not None
    assert found.graph.states["1.weight"].type.sparsity is None
    kept = found.graph.states["3.weight"].type.sparsity
    assert kept is not None and kept.pattern.value == "unstructured"  # noqa: PT018  # one statement about one thing
    assert [line.split(" now, was ")[0] for line in found.corrected] == ["%1.weight is dense", f"%3.weight is {kept.text}"]
    assert found.corrected[0] in str(found)
    assert list(masks_of(found.module)) == ["3.weight"]
    verify_structure(found.graph)
