from __future__ import annotations

from typing import Literal

import pytest
import torch

from graphopt.analysis import sparsity
from graphopt.errors import PassOptionError
from graphopt.passes.sparsify.sparsify_block import SparsifyBlock
from tests.support.sparsifying import network, run_pass, weight_of


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_blocks_of_least_energy_go_as_a_whole(scope: Literal["layer", "global"]) -> None:
    graph = network()
    result = run_pass(SparsifyBlock(block=(4, 2), ratio=0.5, scope=scope, dense_ends=False), graph)
    reasons = dict(result.skipped)
    assert reasons["up"].startswith("blocks go along output channels on axis 0, a transposed convolution has inputs there")
    for name in ("stem", "grouped", "fc"):
        new = weight_of(graph, name).flatten(1)
        blocks = (new.reshape(new.shape[0] // 4, 4, -1, 2) != 0).float().mean((1, 3))
        assert bool(((blocks == 0) | (blocks == 1)).all())
        if scope == "layer":
            assert int((new == 0).sum()) == new.numel() // 2
            energies = weight_of(network(), name).reshape(new.shape[0] // 4, 4, -1, 2).square().sum((1, 3))
            assert energies[blocks == 0].max() <= energies[blocks == 1].min()
    assert all(found.holds in (None, True) for found in sparsity(graph))


def test_ragged_blocks_and_groups() -> None:
    graph = network()
    result = run_pass(SparsifyBlock(block=(3, 5), ratio=0.5, dense_ends=False, exclude=("up",)), graph)
    assert dict(result.skipped)["grouped"] == "blocks of 3 output channels do not fit into the 8 of a group"
    assert all(found.holds in (None, True) for found in sparsity(graph))
    zeros = int((weight_of(graph, "stem") == 0).sum())
    assert abs(zeros - 16 * 36 / 2) <= 15 / 2
    with pytest.raises(PassOptionError, match=r"block is \(4, 0\), needs two positive sizes"):
        SparsifyBlock(block=(4, 0))
    assert torch.count_nonzero(weight_of(graph, "grouped")) == weight_of(graph, "grouped").numel()
