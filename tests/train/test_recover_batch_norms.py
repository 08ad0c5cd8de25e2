"""Batch norms that recover() estimates again, or leaves as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import UsageError
from graphopt.train import recover
from tests.support.recovering import batches, distance, network, sparse


def test_batch_norms_are_estimated_again(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    found = recover(student, batches(), teacher=teacher, epochs=1, accelerate=False).module
    with torch.no_grad():
        parts = [nn.functional.conv2d(x, found.get_parameter("0.weight"), found.get_parameter("0.bias"), padding=1) for x in batches()]
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    var = torch.stack([part.var((0, 2, 3)) for part in parts]).mean(0)
    assert torch.allclose(found.get_buffer("1.running_mean"), mean, atol=1e-5)
    assert torch.allclose(found.get_buffer("1.running_var"), var, rtol=1e-4)
    module = recover(sparse(), batches(), teacher=network(), epochs=1, accelerate=False).module
    assert torch.allclose(module.get_buffer("1.running_mean"), mean, atol=1e-4)


@pytest.mark.parametrize("features", [(), ("1", "2")])
def test_frozen_batch_norms_stay_and_are_used(student: graphopt.Graph, teacher: graphopt.Graph, features: tuple[str, ...]) -> None:
    """Training is that of the same network in eval mode; pieces of batches have the gradients of the whole."""
    options: dict[str, Any] = {"batch_norms": "frozen", "optimizer": "sgd", "lr": 0.05, "steps": 4, "seed": 3, "accelerate": False}
    graph = recover(student, batches(), teacher=teacher, features=features, **options)
    pieces = recover(student, batches(), teacher=teacher, features=features, micro_batch=3, **options)
    module = recover(sparse(), batches(), teacher=network(), **options).module
    before = dict(sparse().named_buffers())
    trained = dict(graph.module.named_parameters())
    for found in (graph.module, pieces.module, module):
        for name in ("1.running_mean", "1.running_var"):
            assert torch.equal(found.get_buffer(name), before[name])
        for name, parameter in found.named_parameters():
            if not features or found is not module:
                torch.testing.assert_close(parameter, trained[name], rtol=1e-4, atol=1e-6)
    assert distance(graph.module, network()) < distance(sparse(), network())
    assert graph.graph is not None
    assert 'mode="follow"' in str(graph.graph), "the graph that comes out can be trained on with batch norms that follow"
    with pytest.raises(UsageError, match=r"batch_norms is 'frozen', and '.*' computes with the statistics of its batch"):
        recover(graph.module, batches(), teacher=network(), batch_norms="frozen", steps=1, accelerate=False)
    with pytest.raises(UsageError, match="batch_norms is 'eval', needs 'train' or 'frozen'"):
        recover(student, batches(), teacher=teacher, batch_norms="eval", steps=1, accelerate=False)  # pyright: ignore[reportArgumentType]
