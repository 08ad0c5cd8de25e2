from __future__ import annotations

import pytest
import torch
import torchvision  # pyright: ignore[reportMissingTypeStubs]

import graphopt
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import PassOptionError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ops import verify
from graphopt.passes.shrink.factor_linear import FactorLinear
from graphopt.passes.shrink.low_rank import basis_of_outputs
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.probes import random_inputs
from graphopt.rewrite.rewriter import Rewriter
from tests.support.folding import filled, largest_difference, set_state
from tests.support.pass_constructs import construct_graph

LAYER = """
graph g(%x: f32[32,24]) {
  param %fc.weight: f32[40,24]
  param %fc.bias: f32[40]
  %y: f32[32,40] = linear(%x, %fc.weight, %fc.bias)
  return %y
}
"""


def _calibration(*batches: torch.Tensor) -> Context:
    return Context(calibration=Calibration([Batch((x,)) for x in batches]))


def _error(before: Graph, after: Graph, x: torch.Tensor) -> float:
    old, new = (Interpreter(graph, precise=True).run(x)[0] for graph in (before, after))
    return float((old - new).norm() / old.norm())


def test_a_layer_becomes_two() -> None:
    graph = filled(LAYER)
    outcome = FactorLinear(ratio=0.5).apply_with(Rewriter(graph), Context())
    assert outcome.rewritten == 1
    assert outcome.notes[0].startswith("fc: rank 7 of 24, loses ")
    assert outcome.notes[1] == "directions are those of the weights alone: there is no calibration data"
    verify(graph)
    assert show(graph) == show(
        parse(
            """
            graph g(%x: f32[32,24]) {
              param %fc.weight: f32[7,24]
              param %fc.bias: f32[40]
              param %fc.factor.weight: f32[40,7]
              %y.low_rank: f32[32,7] = linear(%x, %fc.weight, none)
              %y: f32[32,40] = linear(%y.low_rank, %fc.factor.weight, %fc.bias)
              return %y
            }
            """
        )
    )
    parameters = sum(state.type.elements for state in graph.states.values() if isinstance(state.type.elements, int))
    assert parameters - 40 <= 0.5 * 40 * 24


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_a_weight_of_low_rank_is_split_exactly(shape: tuple[int, int]) -> None:
    out, inputs = shape
    graph = filled(LAYER.replace("40", "OUT").replace("24", "IN").replace("OUT", str(out)).replace("IN", str(inputs)))
    generator = torch.Generator().manual_seed(0)
    set_state(graph, "fc.weight", torch.randn(out, 3, generator=generator) @ torch.randn(3, inputs, generator=generator))
    before = graph.clone()
    outcome = FactorLinear(energy=1e-10).apply_with(Rewriter(graph), Context())
    assert outcome.notes[0] == f"fc: rank 3 of {min(shape)}, loses 0.00%"
    assert largest_difference(before, graph) < 1e-5  # the weight itself is of rank 3 to float32 only


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_inputs_in_a_plane_need_no_more_than_its_dimensions(shape: tuple[int, int]) -> None:
    """A full-rank weight on data of 4 dimensions and a mean: rank 4, and the bias takes the mean."""
    out, inputs = shape
    graph = filled(LAYER.replace("40", "OUT").replace("24", "IN").replace("OUT", str(out)).replace("IN", str(inputs)))
    generator = torch.Generator().manual_seed(0)
    plane, offset = torch.randn(4, inputs, generator=generator), 10 * torch.randn(inputs, generator=generator)
    batches = [torch.randn(32, 4, generator=generator) @ plane + offset for _ in range(3)]
    before = graph.clone()
    outcome = FactorLinear(energy=1e-9).apply_with(Rewriter(graph), _calibration(*batches[:2]))
    assert outcome.notes[0] == f"fc: rank 4 of {min(shape)}, loses 0.00%"
    assert _error(before, graph, batches[2]) < 1e-5
    assert largest_difference(before, graph) > 0.1


def test_rows_are_not_taken_from_a_few_columns_of_an_image() -> None:
    """32 images of 32 x 32: of 32768 rows every eighth would show 4 of the 32 columns only."""
    column = torch.arange(32) % 8
    image = torch.stack([(column == 0).double(), (column != 0).double()], 1).expand(32, 32, 32, 2)
    basis = basis_of_outputs([image], centred=False)
    assert basis.energies[0] == pytest.approx(7 / 8, abs=0.02)
    assert basis.vectors[:, 0].abs().tolist() == pytest.approx([0.0, 1.0])


def test_data_gives_better_directions_than_weights_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(0, -2, 24)
    batches = [torch.randn(32, 24, generator=generator) * spread for _ in range(9)]
    errors: dict[bool, float] = {}
    for use_data in (False, True):
        graph = filled(LAYER)
        before = graph.clone()
        outcome = FactorLinear(ratio=0.5, use_data=use_data).apply_with(Rewriter(graph), _calibration(*batches[:8]))
        assert outcome.rewritten == 1
        errors[use_data] = _error(before, graph, batches[8])
    assert errors[True] < 0.5 * errors[False]


def test_the_layer_behind_is_fitted_to_what_the_new_one_gives() -> None:
    """Layer after layer: the second sees 4 dimensions only, since the first gives no more."""
    graph = filled(
        """
        graph g(%x: f32[64,24]) {
          param %a.weight: f32[24,24]
          param %b.weight: f32[24,24]
          %h: f32[64,24] = linear(%x, %a.weight, none)
          %y: f32[64,24] = linear(%h, %b.weight, none)
          return %y
        }
        """
    )
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(0))
    outcome = FactorLinear(ratio=0.65).apply_with(Rewriter(graph), _calibration(x))
    assert outcome.notes[0].startswith("a: rank 4 of 24, loses ")
    assert outcome.notes[1] == "b: rank 4 of 24, loses 0.00%"


def test_reasons() -> None:
    graph = filled(
        """
        graph g(%x: f32[4,8], %v: f32[8,8]) {
          param %two.weight: f32[8,8]
          param %tied.weight: f32[8,8] tied ("other.weight",)
          param %thin.weight: f32[1,8]
          param %full.weight: f32[8,8]
          %a: f32[4,8] = linear(%x, %two.weight, none)
          %b: f32[4,8] = linear(%a, %two.weight, none)
          %c: f32[4,8] = linear(%b, %tied.weight, none)
          %d: f32[4,8] = linear(%c, %v, none)
          %e: f32[4,8] = linear(%d, %full.weight, none)
          %y: f32[4,1] = linear(%e, %thin.weight, none)
          return %y
        }
        """
    )
    outcome = FactorLinear(energy=0.0, exclude=("th*",)).apply_with(Rewriter(graph), Context())
    assert outcome.rewritten == 0
    assert outcome.skipped == (
        ("two", "%two.weight has 2 readers, needs 1"),
        ("two", "%two.weight has 2 readers, needs 1"),
        ("tied", "%tied.weight is tied to 'other.weight'"),
        ("d", "%v: f32[8,8] is computed at run time, needs a parameter"),
        ("full", "rank 8 has 128 parameters, the layer has 64"),
        ("thin", "excluded by 'th*'"),
    )
    outcome = FactorLinear(ratio=0.0).apply_with(Rewriter(graph), Context())
    assert outcome.rewritten == 0
    assert {reason for name, reason in outcome.skipped if name == "thin"} == {"ratio 0 removes nothing"}
    outcome = FactorLinear(ratio=0.5, only=("thin",)).apply_with(Rewriter(graph), Context())
    assert ("thin", "rank 1 has 9 parameters, ratio 0.5 leaves 4 of 8") in outcome.skipped


def test_a_sparse_weight_stays() -> None:
    graph = filled(LAYER.replace("f32[40,24]", "f32[40,24] sparse<unstructured 0.8>"))
    text = show(graph)
    outcome = FactorLinear().apply_with(Rewriter(graph), _calibration(torch.randn(32, 24)))
    assert outcome.skipped == (("fc", "it is sparse: %fc.weight is sparse<unstructured 0.8>, its factors would be dense"),)
    assert show(graph) == text


def test_bad_options() -> None:
    with pytest.raises(PassOptionError, match=r"option 'ratio' of factor-linear is -0\.5, needs a number >= 0\.0 and <= 1\.0"):
        FactorLinear(ratio=-0.5)
    with pytest.raises(PassOptionError, match="'head' in exclude is the name of nothing that this pass works on"):
        FactorLinear(exclude=("head",)).run(filled(LAYER))


def test_vision_transformer_through_the_pass_manager() -> None:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    ).eval()
    x = torch.randn(4, 3, 32, 32)
    graph = graphopt.capture(model, (x,))
    context = _calibration(x)
    result = PassManager(FactorLinear(ratio=0.3, exclude=("heads*",)), context=context, strict=True).run(graph)
    assert result.records[0].rewritten == 8
    new = set(result.graph.states) - set(graph.states)
    assert new == {
        f"encoder.layers.encoder_layer_{number}.{layer}.factor.weight"
        for number in (0, 1)
        for layer in ("self_attention", "self_attention.out_proj", "mlp.0", "mlp.3")
    }
    module = result.graph.to_module().train()
    module(x).sum().backward()
    assert all(parameter.grad is not None for name, parameter in module.named_parameters() if "factor" in name)


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs_stay_valid(seed: int) -> None:
    graph = construct_graph(seed, symbolic=seed == 1)
    context = Context(calibration=Calibration([Batch(random_inputs(graph, seed=seed))]))
    for pass_ in (FactorLinear(ratio=0.3), FactorLinear(energy=0.5), FactorLinear(use_data=False)):
        copy = graph.clone()
        pass_.apply_with(Rewriter(copy), context)
        verify(copy)
        Interpreter(copy).run(*random_inputs(graph, seed=5))
