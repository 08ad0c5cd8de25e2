from __future__ import annotations

import torch

from graphopt.passes.sparsify.sparsify_random import SparsifyRandom
from graphopt.pipeline.context import Context
from tests.support.sparsifying import network, run_pass, weight_of


def test_random_zeros_are_repeatable_and_nested() -> None:
    graphs = [network() for _ in range(4)]
    for graph, ratio, seed in zip(graphs, (0.5, 0.5, 0.8, 0.5), (1, 1, 1, 2), strict=True):
        assert run_pass(SparsifyRandom(ratio=ratio), graph, Context(seed=seed)).rewritten == 3
    first, again, more, other = (weight_of(graph, "grouped") for graph in graphs)
    assert int((first == 0).sum()) == first.numel() // 2
    assert torch.equal(first, again)
    assert bool((more[first == 0] == 0).all())
    assert not torch.equal(first, other)
