from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from graphopt.analysis import sparsity
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import PassError, PassOptionError
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.passes.sparsify import inputs
from graphopt.passes.sparsify.inputs import Inputs, input_rows, moments
from graphopt.passes.sparsify.layers import Layer, Scope, find_layers
from graphopt.passes.sparsify.masking import MaskingPass, Sparsify
from graphopt.passes.sparsify.patterns import Unstructured
from graphopt.passes.sparsify.sparsify_block import SparsifyBlock
from graphopt.passes.sparsify.sparsify_magnitude import SparsifyMagnitude
from graphopt.passes.sparsify.sparsify_n_m import SparsifyNM
from graphopt.passes.sparsify.sparsify_obs import SparsifyOBS
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from tests.support.folding import filled
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


def deep(width: int = 24) -> Graph:
    """Six layers, each of which reads what the one before it made."""
    lines = [f"  param %w{number}: f32[{width},{width}]\n  param %b{number}: f32[{width}]" for number in range(6)]
    for number in range(6):
        lines.append(f"  %h{number}: f32[64,{width}] = linear(%{f'r{number - 1}' if number else 'x'}, %w{number}, %b{number})")
        lines.append(f"  %r{number}: f32[64,{width}] = relu(%h{number})")
    return filled("\n".join([f"graph deep(%x: f32[64,{width}]) {{", *lines, "  return %h5", "}", ""]))


def vectors(seed: int, width: int = 24) -> Context:
    """Batches of mixtures of a few sources."""
    mixing = torch.randn(6, width, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(64, 6, generator=generator) @ mixing + 0.2 * torch.randn(64, width, generator=generator) for _ in range(8)]
    return Context(calibration=Calibration([Batch((x,)) for x in batches]))


@pytest.mark.parametrize("chance", [0, 3], ids=["no zeros", "some zeros by chance"])
def test_layers_make_up_for_those_in_front_of_them(chance: int) -> None:
    others = vectors(seed=1).calibration
    assert others is not None
    off: dict[str, float] = {}

    def before() -> Graph:
        graph = deep()
        for state in [state for name, state in graph.states.items() if name.startswith("w")]:
            assert state.data is not None
            numbers = state.data.tensor().clone()
            numbers.view(-1)[:chance] = 0
            GraphEditor(graph).update_state(replace(state, data=TensorData(numbers)))
        return graph

    for match in ("dense", "layer"):
        graph = before()
        run_pass(SparsifyOBS(ratio=0.5, dense_ends=False, match=match), graph, vectors(seed=0))
        pairs = [[Interpreter(g, precise=True).run(*batch.inputs)[0] for g in (before(), graph)] for batch in others]
        old, new = (torch.cat([pair[index] for pair in pairs]) for index in (0, 1))
        off[match] = float((new - old).norm() / old.norm())
    assert off["dense"] < 0.9 * off["layer"], off


@pytest.mark.parametrize(
    "first", [SparsifyMagnitude(ratio=0.9, dense_ends=False), SparsifyMagnitude(ratio=0.3, dense_ends=False), SparsifyNM(dense_ends=False)]
)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4x1"])
def test_zeros_that_are_there_stay(pattern: str, first: Sparsify) -> None:
    graph = deep()
    run_pass(first, graph)
    zeros = {name: state.data.tensor() == 0 for name, state in graph.states.items() if name.startswith("w") and state.data is not None}
    run_pass(SparsifyOBS(pattern=pattern, ratio=0.5, dense_ends=False), graph, vectors(seed=0))
    for name, mask in zeros.items():
        data = graph.states[name].data
        assert data is not None
        assert bool((data.tensor()[mask] == 0).all()), name
        if pattern == "unstructured":
            assert float((data.tensor() == 0).double().mean()) == pytest.approx(max(0.5, float(mask.double().mean())), abs=0.002)


def test_a_layer_without_room_for_a_zero_keeps_weight_and_bias() -> None:
    graph, pass_ = deep(), SparsifyOBS(ratio=0.0005, dense_ends=False)
    layers, _ = pass_.layers(graph, Unstructured())
    dense = torch.randn(64, 24, generator=torch.Generator().manual_seed(0))
    for ratio, changes in ((0.0005, False), (0.1, True)):
        found = pass_.solve(graph, layers[3], Inputs([0.8 * dense + 0.1], [dense]), Unstructured(), ratio, 0)
        assert (found.bias is not None) is changes
        assert torch.equal(found.weight, layers[3].numbers().to(found.weight.dtype)) is not changes


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_the_bias_of_a_layer_whose_zeros_are_all_old_makes_up_for_layers_in_front(pattern: str) -> None:
    def before() -> Graph:
        graph = deep()
        run_pass(SparsifyNM(only=("w5",), dense_ends=False), graph)
        return graph

    old, new, context = before(), before(), vectors(seed=0)
    run_pass(SparsifyOBS(pattern=pattern, ratio=0.5, only=("w4", "w5"), dense_ends=False), new, context)
    weights = [graph.states["w5"].data for graph in (old, new)]
    assert weights[0] is not None
    assert weights[1] is not None
    assert torch.equal(weights[0].tensor(), weights[1].tensor())
    assert context.calibration is not None
    means = [torch.cat([Interpreter(g, precise=True).run(*b.inputs)[0] for b in context.calibration]).mean(0) for g in (old, new)]
    assert torch.allclose(means[0], means[1], atol=1e-5), "the mean is all that a bias can make up for"


def test_one_layer_has_nothing_in_front_to_make_up_for() -> None:
    graphs = [deep(), deep()]
    for graph, match in zip(graphs, ("dense", "layer"), strict=True):
        run_pass(SparsifyOBS(ratio=0.5, dense_ends=False, only=("w2",), match=match), graph, vectors(seed=0))
    (dense, layer) = (graph.states["w2"].data for graph in graphs)
    assert dense is not None
    assert layer is not None
    assert torch.equal(dense.tensor(), layer.tensor())


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


def test_patches_are_taken_once_for_all_groups_and_moments_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(layer: Layer, *rest: Any) -> Iterator[torch.Tensor]:
        calls.append(layer.name)
        return input_rows(layer, *rest)

    monkeypatch.setattr(inputs, "input_rows", counted)
    graph = network()
    run_pass(SparsifyOBS(depthwise=True, only=("depthwise", "grouped"), dense_ends=False), graph, correlated_images())
    assert calls == ["depthwise", "grouped", "grouped"], "16 and 2 groups: once each, and once more for what the dense network gives"
    layer = next(layer for layer in find_layers(graph, Scope())[0] if layer.name == "grouped")
    now, dense = torch.randn(2, 4, 16, 6, 6, generator=torch.Generator().manual_seed(0))
    both = moments(layer, Inputs([now], [dense]), Unstructured(), 0, range(2), slice(None))
    rows = [next(input_rows(layer, [values], Unstructured(), 0)).double() for values in (now, dense)]
    for group, found in enumerate(both):
        x, d = rows[0][group], rows[1][group]
        assert torch.allclose(found.gram, x.T @ x / len(x))
        assert torch.allclose(found.cross, d.T @ x / len(x))
        assert torch.allclose(found.dense_mean, d.mean(0))


def test_no_data_and_wrong_patterns() -> None:
    with pytest.raises(PassError, match="sparsify-obs needs calibration data and there is none"):
        run_pass(SparsifyOBS(), network())
    with pytest.raises(
        PassOptionError, match="pattern is '4:2', needs 'unstructured', N:M with 0 < N < M such as '2:4', or RxC such as '4x1'"
    ):
        SparsifyOBS(pattern="4:2")
    with pytest.raises(PassOptionError, match=r"ratio is 1\.0, which leaves no weight"):
        run_pass(SparsifyOBS(ratio=1.0), network(), correlated_images())
