from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphopt.analysis import sparsity
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import PassError, PassOptionError
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.passes.sparsify.masking import MaskingPass, Sparsify
from graphopt.passes.sparsify.sparsify_block import SparsifyBlock
from graphopt.passes.sparsify.sparsify_magnitude import SparsifyMagnitude
from graphopt.passes.sparsify.sparsify_n_m import SparsifyNM
from graphopt.passes.sparsify.sparsify_obs import SparsifyOBS
from tests.support.sparsifying import correlated_images, network, run_pass, weight_of


def distance(before: Graph, after: Graph, seed: int) -> float:
    """|f' - f| over |f| on other data of the same kind."""
    calibration = correlated_images(seed=seed).calibration
    assert calibration is not None
    outputs = [[Interpreter(graph, precise=True).run(*batch.inputs)[0] for batch in calibration] for graph in (before, after)]
    old, new = (torch.cat(found) for found in outputs)
    return float((new - old).norm() / old.norm())


@pytest.mark.parametrize(
    ("pattern", "peer"),
    [
        ("unstructured", SparsifyMagnitude(ratio=0.5, exclude=("up",))),
        ("4x1", SparsifyBlock(ratio=0.5, block=(4, 1), exclude=("up",))),
        ("2:4", SparsifyNM(exclude=("up",))),
    ],
)
def test_pattern_and_ratio_are_exact_and_outputs_stay_nearer_than_by_size(pattern: str, peer: Sparsify) -> None:
    graph, by_size = network(), network()
    result = run_pass(SparsifyOBS(pattern=pattern, ratio=0.5), graph, correlated_images())
    run_pass(peer, by_size)
    assert result.rewritten == 2
    assert dict(result.skipped)["up"].startswith(("transposed convolutions add up", "blocks go along output channels"))
    for name in ("grouped", "fc"):
        assert int((weight_of(graph, name) == 0).sum()) == weight_of(graph, name).numel() // 2
        found, wanted = (g.states[f"{name}.weight"].type for g in (graph, by_size))
        assert found == wanted
    assert all(found.holds in (None, True) for found in sparsity(graph))
    assert distance(network(), graph, seed=0) < 0.9 * distance(network(), by_size, seed=0)


@pytest.mark.parametrize(("pattern", "peer"), [("unstructured", SparsifyMagnitude), ("4x1", SparsifyBlock)])
def test_a_global_scope_gives_each_layer_the_zeros_of_one_ranking(pattern: str, peer: type[MaskingPass]) -> None:
    graph, by_size = network(), network()
    for found in (graph, by_size):
        state = found.states["fc.weight"]
        GraphEditor(found).update_state(replace(state, data=TensorData(weight_of(found, "fc") / 3)))
    run_pass(SparsifyOBS(pattern=pattern, ratio=0.5, scope="global", exclude=("up",)), graph, correlated_images())
    run_pass(peer(ratio=0.5, scope="global", exclude=("up",)), by_size)
    zeros = [[int((weight_of(found, name) == 0).sum()) for name in ("grouped", "fc")] for found in (graph, by_size)]
    assert zeros[0] == pytest.approx(zeros[1], abs=4), "a layer's zeros are whole blocks"
    assert zeros[0][0] / weight_of(graph, "grouped").numel() != pytest.approx(0.5, abs=0.02), "the layers differ"


def test_ratio_zero_and_full_depthwise_networks() -> None:
    graph = network()
    assert run_pass(SparsifyOBS(ratio=0.0), graph, correlated_images()).rewritten == 0
    result = run_pass(SparsifyOBS(depthwise=True, only=("depthwise",), dense_ends=False), graph, correlated_images())
    assert result.rewritten == 1
    assert int((weight_of(graph, "depthwise") == 0).sum()) in range(64, 81)


def test_no_data_and_wrong_patterns() -> None:
    with pytest.raises(PassError, match="sparsify-obs needs calibration data and there is none"):
        run_pass(SparsifyOBS(), network())
    with pytest.raises(
        PassOptionError, match="pattern is '4:2', needs 'unstructured', N:M with 0 < N < M such as '2:4', or RxC such as '4x1'"
    ):
        SparsifyOBS(pattern="4:2")
    with pytest.raises(PassOptionError, match=r"ratio is 1\.0, which leaves no weight"):
        run_pass(SparsifyOBS(ratio=1.0), network(), correlated_images())
