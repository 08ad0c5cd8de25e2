"""Which layers become sparse, and how zeros are shared out."""

from __future__ import annotations

import pytest
import torch

import graphopt
from graphopt.errors import PassError, PassOptionError
from graphopt.ir.parser import parse
from graphopt.ops import verify
from graphopt.passes.sparsify.layers import Scope, find_layers
from graphopt.passes.sparsify.ratios import shared_ratios
from graphopt.passes.sparsify.sensitivity import share_out
from graphopt.passes.sparsify.sparsify_magnitude import SparsifyMagnitude
from tests.support.folding import filled, set_state
from tests.support.sparsifying import network, run_pass, weight_of


def test_ends_and_depthwise_stay_dense_by_visible_defaults() -> None:
    found, skipped = find_layers(network(), Scope())
    assert [layer.name for layer in found] == ["grouped", "up", "fc"]
    assert dict(skipped) == {
        "stem": "the first layer stays dense (dense_ends=True)",
        "depthwise": "depthwise convolutions stay dense (depthwise=False)",
        "head": "the last layer stays dense (dense_ends=True)",
    }
    assert len(find_layers(network(), Scope(dense_ends=False, depthwise=True))[0]) == 6


def test_parallel_heads_are_all_last_and_layers_behind_an_embedding_are_not_first() -> None:
    graph = filled("""graph g(%ids: i64[3]) {
      param %table: f32[9,4]
      param %q.weight: f32[4,4]
      param %a.weight: f32[2,4]
      param %b.weight: f32[3,4]
      %e: f32[3,4] = embedding(%table, %ids) {padding_idx=none}
      %q: f32[3,4] = linear(%e, %q.weight, none)
      %a: f32[3,2] = linear(%q, %a.weight, none)
      %b: f32[3,3] = linear(%q, %b.weight, none)
      return %a, %b
    }""")
    found, _ = find_layers(graph, Scope(dense_ends=False))
    assert [(layer.name, layer.first, layer.last) for layer in found] == [("q", False, False), ("a", False, True), ("b", False, True)]


def test_products_with_a_matrix_say_what_makes_layers_of_them() -> None:
    graph = filled("""graph g(%x: f32[3,4]) {
      param %a.weight: f32[4,8]
      param %b.weight: f32[8,8]
      param %c.weight: f32[2,8]
      %a: f32[3,8] = matmul(%x, %a.weight)
      %b: f32[3,8] = matmul(%a, %b.weight)
      %c: f32[3,2] = linear(%b, %c.weight, none)
      return %c
    }""")
    _, skipped = find_layers(graph, Scope(only=("[ab]",)))
    why = "it is a matrix product, which form-linear makes a linear layer of: run that pass first"
    assert dict(skipped) == {"a": why, "b": why, "c": "not in only=('[ab]',)"}
    formed = graphopt.optimize(graph, ["form-linear", 'sparsify-magnitude{only=("[ab]",), dense_ends=false}']).graph
    assert {name for name, state in formed.states.items() if state.type.sparsity is not None} == {"a.weight_folded", "b.weight_folded"}


def test_a_pattern_that_means_nothing_names_near_layers() -> None:
    with pytest.raises(PassOptionError, match="'groupd' in exclude is the name of nothing that this pass works on") as raised:
        run_pass(SparsifyMagnitude(exclude=("groupd",)), network())
    assert "near names: grouped" in str(raised.value)


TIED = """graph tied(%x: f32[3,4], %ids: i64[2]) {{
  param %table: f32[9,4] tied ("decoder.weight",)
  param %shared.weight: f32[4,4] tied ("twin.weight",)
  %a: f32[3,4] = linear(%x, %shared.weight, none)
  %b: f32[3,4] = linear(%a, %shared.weight, none)
  %c: f32[3,9] = linear(%b, %table, none)
  %e: f32[2,4] = embedding(%table, %ids) {{padding_idx=none}}
  return %c, %e
}}""".format()


def test_tied_weights_are_changed_once_and_stay_tied() -> None:
    graph = filled(TIED)
    result = run_pass(SparsifyMagnitude(ratio=0.5, dense_ends=False), graph)
    assert result.rewritten == 1
    assert result.skipped == (("table", "%table is also read by embedding"),)
    assert graph.states["shared.weight"].tied == ("twin.weight",)
    assert int((weight_of(graph, "shared") == 0).sum()) == 8
    verify(graph)


def test_weights_without_numbers_or_finite_ones() -> None:
    bare = parse("graph g(%x: f32[1,4]) { param %fc.weight: f32[2,4] %y: f32[1,2] = linear(%x, %fc.weight, none) return %y }")
    assert run_pass(SparsifyMagnitude(dense_ends=False), bare).skipped[0][1].endswith("the graph was read from text alone")
    graph = network()
    broken = weight_of(graph, "fc").clone()
    broken[0, 0] = float("nan")
    set_state(graph, "fc.weight", broken)
    with pytest.raises(PassError, match=r"%fc.weight has 1 NaN or infinite values among 96, which can't be ranked"):
        run_pass(SparsifyMagnitude(), graph)


def test_erdos_renyi_keeps_the_whole_ratio_and_spares_small_layers() -> None:
    found, _ = find_layers(network(), Scope(dense_ends=False, depthwise=True))
    ratios = shared_ratios(found, 0.6, "erk")
    total = sum(layer.elements for layer in found)
    assert sum(ratios[layer] * layer.elements for layer in found) == pytest.approx(0.6 * total)
    largest = max(found, key=lambda layer: layer.elements)
    assert ratios[largest] == max(ratios.values())
    assert all(0 <= ratio < 1 for ratio in ratios.values())
    raw = {layer: (1 - ratios[layer]) * layer.elements / sum(layer.shape) for layer in found if ratios[layer]}
    assert max(raw.values()) == pytest.approx(min(raw.values()))


def test_uniform_plus() -> None:
    found, _ = find_layers(network(), Scope(dense_ends=False))
    ratios = {layer.name: ratio for layer, ratio in shared_ratios(found, 0.5, "uniform-plus").items()}
    assert ratios["stem"] == 0
    assert ratios["head"] == ratios["fc"] > 0.5
    tight = {layer.name: ratio for layer, ratio in shared_ratios(found, 0.7, "uniform-plus").items()}
    assert tight["head"] == 0.8 < tight["fc"]
    with pytest.raises(PassError, match=r"ratio 0\.9 does not fit: scope 'uniform-plus' keeps the first layer dense and 0\.2 of the last"):
        shared_ratios(found, 0.9, "uniform-plus")


def test_errors_are_shared_out_along_hulls() -> None:
    flat, steep = [(0.0, 0.0), (0.5, 0.01), (0.9, 0.02)], [(0.0, 0.0), (0.5, 1.0), (0.9, 9.0)]
    assert share_out({"flat": (100, flat), "steep": (100, steep)}, 0.45) == {"flat": 0.9, "steep": 0.0}
    assert share_out({"flat": (100, flat), "steep": (100, steep)}, 0.6) == {"flat": 0.9, "steep": pytest.approx(0.3)}
    dented = [(0.0, 0.0), (0.3, 1.0), (0.6, 1.1)]
    assert share_out({"dented": (10, dented)}, 0.3) == {"dented": pytest.approx(0.3)}


def test_nothing_left_is_refused() -> None:
    with pytest.raises(PassOptionError, match=r"ratio is 1\.0, which leaves no weight"):
        run_pass(SparsifyMagnitude(ratio=1.0), network())
    assert torch.is_tensor(weight_of(network(), "fc"))
