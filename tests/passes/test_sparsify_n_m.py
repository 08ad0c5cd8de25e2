from __future__ import annotations

import pytest
import torch

from graphopt.analysis import sparsity
from graphopt.errors import PassOptionError
from graphopt.passes.sparsify.sparsify_n_m import SparsifyNM
from graphopt.passes.sparsify.sparsify_obs import SparsifyOBS
from graphopt.passes.sparsify.sparsify_wanda import SparsifyWanda
from tests.support.sparsifying import network, run_pass, weight_of


def test_two_of_four_inputs_stay_per_output_and_tap() -> None:
    graph = network()
    assert run_pass(SparsifyNM(dense_ends=False), graph).rewritten == 5
    for name in ("stem", "grouped", "fc", "head"):
        old, new = weight_of(network(), name), weight_of(graph, name)
        groups = [weight.reshape(new.shape[0], -1, 4, *new.shape[2:]) for weight in (old, new)]
        assert bool(((groups[1] != 0).sum(2) == 2).all())
        wanted = groups[0].abs().sort(dim=2).values[:, :, 2:].sum(2)
        assert torch.allclose(groups[1].abs().sum(2), wanted)
    up = weight_of(graph, "up").reshape(4, 4, 8, 2, 2)
    assert bool(((up != 0).sum(1) == 2).all())
    types = [state.type.text for state in graph.states.values() if state.type.sparsity]
    assert "f32[16,8,2,2] sparse<2:4 axis=0 0.5>" in types
    assert all(found.holds in (None, True) for found in sparsity(graph))


def test_rows_share_a_choice_and_what_does_not_divide_stays() -> None:
    graph = network()
    result = run_pass(SparsifyNM(n=1, m=8, rows=4, dense_ends=False, exclude=("up",)), graph)
    new = weight_of(graph, "grouped") != 0
    assert torch.equal(new, new[::4].repeat_interleave(4, 0))
    reasons = dict(result.skipped)
    assert reasons["stem"] == "4 inputs are no multiple of 8"
    assert reasons["head"] == "12 inputs are no multiple of 8"


def test_a_smaller_ratio_leaves_layers_dense() -> None:
    graph = network()
    result = run_pass(SparsifyNM(ratio=0.2), graph)
    layers = ("grouped", "up", "fc")
    zeros = sum(int((weight_of(graph, name) == 0).sum()) for name in layers)
    assert 0 < zeros <= 0.2 * sum(weight_of(graph, name).numel() for name in layers)
    assert any("more zeros than ratio 0.2 allows" in reason for _, reason in result.skipped)
    with pytest.raises(PassOptionError, match="n is 4 and m is 4, needs n < m"):
        SparsifyNM(n=4)


def test_weaker_versions_have_fewer_zeros_and_not_the_same_ones() -> None:
    assert SparsifyNM().weaker(0.5) == SparsifyNM(ratio=0.25)
    assert SparsifyNM(n=1, ratio=0.4).weaker(0.5) == SparsifyNM(n=1, ratio=0.2)
    assert SparsifyOBS(pattern="3:4").weaker(0.5) == SparsifyOBS(pattern="3:4", ratio=0.125)
    assert SparsifyWanda(ratio=0.8).weaker(0.5) == SparsifyWanda(ratio=0.4)
    graphs = [network(), network()]
    for pass_, graph in zip((SparsifyNM(), SparsifyNM().weaker(0.9)), graphs, strict=True):
        run_pass(pass_, graph)
    zeros = [sum(int((weight_of(graph, name) == 0).sum()) for name in ("grouped", "up", "fc")) for graph in graphs]
    assert 0 < zeros[1] < zeros[0]
