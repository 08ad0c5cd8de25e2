from __future__ import annotations

from pathlib import Path

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


def test_a_product_with_a_weight_and_the_bias_behind_it() -> None:
    """GPT-2's layers: the weight is [in, out], the bias an addition."""
    graph = filled("""
        graph g(%x: f32[32,24]) {
          param %fc.weight: f32[24,40]
          param %fc.bias: f32[40]
          %m: f32[32,40] = matmul(%x, %fc.weight)
          %y: f32[32,40] = add(%m, %fc.bias)
          return %y
        }
        """)
    outcome = FactorLinear(ratio=0.5).apply_with(Rewriter(graph), Context())
    assert outcome.notes[0].startswith("fc: rank 7 of 24, loses ")
    verify(graph)
    assert show(graph) == show(
        parse(
            """
            graph g(%x: f32[32,24]) {
              param %fc.weight: f32[24,7]
              param %fc.bias: f32[40]
              param %fc.factor.weight: f32[7,40]
              %m.low_rank: f32[32,7] = matmul(%x, %fc.weight)
              %m: f32[32,40] = matmul(%m.low_rank, %fc.factor.weight)
              %y: f32[32,40] = add(%m, %fc.bias)
              return %y
            }
            """
        )
    )


def test_an_equation_becomes_two() -> None:
    """XLNet's projections into heads and out of them: axes of the old weights stay, with one of them smaller, and they keep their names."""
    graph = filled("""
        graph g(%x: f32[5,2,24]) {
          param %layer.q: f32[24,4,6]
          param %layer.o: f32[24,4,6]
          %q: f32[4,5,2,6] = einsum(%x, %layer.q) {equation="ibh,hnd->nibd"}
          %y: f32[5,2,24] = einsum(%layer.o, %q) {equation="hnd,n...d->...h"}
          return %y
        }
        """)
    graph = PassManager(FactorLinear(ratio=0.5), strict=True).run(graph).graph
    verify(graph)
    assert show(graph) == show(
        parse(
            """
            graph g(%x: f32[5,2,24]) {
              param %layer.q: f32[6,4,6]
              param %layer.o: f32[6,4,6]
              param %layer.q_factor: f32[24,6]
              param %layer.o_factor: f32[24,6]
              %q.low_rank: f32[5,2,6] = einsum(%x, %layer.q_factor) {equation="ibh,hr->ibr"}
              %q: f32[4,5,2,6] = einsum(%q.low_rank, %layer.q) {equation="ibr,rnd->nibd"}
              %y.low_rank: f32[5,2,6] = einsum(%layer.o, %q) {equation="rnd,n...d->...r"}
              %y: f32[5,2,24] = einsum(%layer.o_factor, %y.low_rank) {equation="hr,...r->...h"}
              return %y
            }
            """
        )
    )


PRODUCTS = {
    "linear": ("f64[9,12]", "f64[8,12]", "f64[9,8]", "linear(%x, %w, none)", (8, 12), (0, 1)),
    "matmul": ("f64[9,12]", "f64[12,8]", "f64[9,8]", "matmul(%x, %w)", (8, 12), (1, 0)),
    "weight on the left": ("f64[3,12,9]", "f64[8,12]", "f64[3,8,9]", "matmul(%w, %x)", (8, 12), (0, 1)),
    "heads": ("f64[3,5,12]", "f64[12,4,2]", "f64[3,4,5,2]", 'einsum(%x, %w) {equation="btd,dhk->bhtk"}', (4, 2, 12), (2, 0, 1)),
    "heads turned": ("f64[3,4,5,3]", "f64[3,4,8]", "f64[3,5,8]", 'einsum(%x, %w) {equation="bhtk,khd->btd"}', (8, 3, 4), (1, 2, 0)),
    "no arrow": ("f64[9,12]", "f64[12,8]", "f64[9,8]", 'einsum(%x, %w) {equation="ab,bc"}', (8, 12), (1, 0)),
}
"""Types of input, weight and result, the node, and the outputs and inputs of the map as the axes of the weight."""


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("form", PRODUCTS)
def test_every_form_of_a_product_is_split_exactly_where_it_has_low_rank(form: str, data: bool) -> None:
    input_type, weight_type, result_type, call, sizes, order = PRODUCTS[form]
    text = f"graph g(%x: {input_type}) {{\n  param %w: {weight_type}\n  %y: {result_type} = {call}\n  return %y\n}}"
    graph = filled(text)
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(8, 2, generator=generator).double() @ torch.randn(2, 12, generator=generator).double()
    set_state(graph, "w", low.reshape(sizes).permute(order).contiguous())
    before = graph.clone()
    shape = graph.inputs[0].type.static_shape
    context = _calibration(*(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))) if data else Context()
    outcome = FactorLinear(energy=1e-12).apply_with(Rewriter(graph), context)
    assert outcome.notes[0] == "w: rank 2 of 8, loses 0.00%"
    verify(graph)
    assert largest_difference(before, graph) < 1e-12


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ('einsum(%x, %w) {equation="bhd,hde->bhe"}', "f32[6,4,4]"),  # a map of its own for each head
        ('einsum(%x, %w) {equation="bhd,hdd->bh"}', "f32[6,4]"),
        ('einsum(%x, %w) {equation="bhd,hef->bd"}', "f32[6,4]"),  # sums of the weight alone
        ('einsum(%w, %w) {equation="hde,hdf->ef"}', "f32[4,4]"),
        ('einsum(%x, %w) {equation="bhd,...d->bh..."}', "f32[6,4,4,4]"),
        ("matmul(%x, %w)", "f32[4,4,4]"),
    ],
)
def test_what_is_no_single_map_is_no_layer(call: str, result: str) -> None:
    x = "f32[6,4,4]" if "einsum" in call else "f32[4,4,4]"
    graph = filled(f"graph g(%x: {x}) {{\n  param %w: f32[4,4,4]\n  %y: {result} = {call}\n  return %y\n}}")
    outcome = FactorLinear(ratio=0.2).apply_with(Rewriter(graph), Context())
    assert (outcome.rewritten, outcome.skipped) == (0, ())


def test_factors_of_an_equation_are_kept_in_a_checkpoint(tmp_path: Path) -> None:
    text = """
        graph g(%x: f32[5,2,24]) {
          param %q: f32[24,4,6]
          %y: f32[4,5,2,6] = einsum(%x, %q) {equation="ibh,hnd->nibd"}
          return %y
        }
        """
    calibration = Calibration([Batch((torch.randn(5, 2, 24),))])
    graphs = [filled(text) for _ in range(3)]
    outcomes = [
        FactorLinear(ratio=0.5).apply_with(Rewriter(graph), Context(calibration=calibration, checkpoint=checkpoint))
        for graph, checkpoint in zip(graphs, (None, tmp_path, tmp_path), strict=True)
    ]
    assert f"1 finished part was read from {tmp_path}" in outcomes[2].notes[-1]
    assert graphs[0] == graphs[1] == graphs[2]


def test_inputs_and_outputs_on_several_axes_are_left() -> None:
    graph = filled("""
        graph g(%x: f32[5,6,4]) {
          param %w: f32[6,4,3,8]
          %y: f32[5,3,8] = einsum(%x, %w) {equation="bhd,hdjk->bjk"}
          return %y
        }
        """)
    outcome = FactorLinear(ratio=0.2).apply_with(Rewriter(graph), Context())
    assert outcome.skipped == (("w", "%w has its inputs on 2 axes and its outputs on 2, needs one of them on 1"),)


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
