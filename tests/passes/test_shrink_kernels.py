from __future__ import annotations

import pytest
import torch
import torchvision  # pyright: ignore[reportMissingTypeStubs]

import graphopt
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import PassError, PassOptionError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ir.types import Sparsity, SparsityPattern
from graphopt.ops import verify
from graphopt.passes.shrink.patches import fit_kernel, patch_moments
from graphopt.passes.shrink.shrink_kernels import ShrinkKernels
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.probes import random_inputs
from graphopt.rewrite.rewriter import Rewriter
from tests.support.folding import filled, largest_difference, set_state
from tests.support.pass_constructs import construct_graph


def _single(kernel: int, *, groups: int = 1, bias: bool = True) -> Graph:
    side = kernel // 2
    return filled(
        f"""
        graph g(%x: f32[4,4,12,12]) {{
          param %conv.weight: f32[8,{4 // groups},{kernel},{kernel}]
          {"param %conv.bias: f32[8]" if bias else ""}
          %y: f32[4,8,12,12] = conv2d(%x, %conv.weight, {"%conv.bias" if bias else "none"})
              {{dilation=(1, 1), groups={groups}, padding=({side}, {side}), stride=(1, 1)}}
          return %y
        }}
        """
    )


def _numbers(graph: Graph, name: str) -> torch.Tensor:
    data = graph.states[name].data
    assert data is not None
    return data.tensor()


def _smooth(batches: int = 2, seed: int = 1) -> Calibration:
    """Batches of 4 images whose neighbouring pixels are alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = [torch.randn(4, 4, 3, 3, generator=generator) for _ in range(batches)]
    return Calibration([Batch((torch.nn.functional.interpolate(x, size=(12, 12), mode="bicubic"),)) for x in coarse])


def test_each_axis_shrinks_as_far_as_its_energy_says() -> None:
    graph = _single(7)
    weight = torch.zeros(8, 4, 7, 7)
    weight[:, :, 1:6, 2:5] = 1.0  # 5 x 3
    weight[:, :, 0] = 0.01
    set_state(graph, "conv.weight", weight)
    outcome = ShrinkKernels(energy=0.001).apply_with(Rewriter(graph), Context())
    assert outcome.rewritten == 1
    assert outcome.notes == ("conv: 7x7 -> 5x3, loses 0.00%", "kernels were cut and not refitted: there is no calibration data")
    verify(graph)
    assert show(graph) == show(
        parse(
            """
            graph g(%x: f32[4,4,12,12]) {
              param %conv.weight: f32[8,4,5,3]
              param %conv.bias: f32[8]
              %y: f32[4,8,12,12] = conv2d(%x, %conv.weight, %conv.bias) {dilation=(1, 1), groups=1, padding=(2, 1), stride=(1, 1)}
              return %y
            }
            """
        )
    )


@pytest.mark.parametrize("groups", [1, 4])
def test_a_border_of_zeros_goes_exactly_even_without_any_allowance(groups: int) -> None:
    graph = _single(5, groups=groups)
    weight = _numbers(graph, "conv.weight").clone()
    weight[:, :, [0, 4]] = 0
    set_state(graph, "conv.weight", weight)
    before = graph.clone()
    context = Context(calibration=_smooth())
    assert ShrinkKernels(energy=0.0).apply_with(Rewriter(graph), context).rewritten == 1
    assert graph.states["conv.weight"].type.static_shape == (8, 4 // groups, 3, 5)
    assert largest_difference(before, graph) <= 1e-12


def test_refitting_loses_less_than_cutting() -> None:
    errors: dict[bool, float] = {}
    for refit in (False, True):
        graph = _single(3)
        before = graph.clone()
        outcome = ShrinkKernels(energy=0.95, refit=refit).apply_with(Rewriter(graph), Context(calibration=_smooth(batches=8)))
        assert outcome.rewritten == 1
        assert graph.states["conv.weight"].type.static_shape == (8, 4, 1, 1)
        (x,) = next(iter(_smooth(batches=1, seed=2))).inputs
        old, new = (Interpreter(item).run(x)[0] for item in (before, graph))
        errors[refit] = float((old - new).norm() / old.norm())
    assert errors[True] < 0.7 * errors[False]


def test_measured_outputs_decide_otherwise_than_weights() -> None:
    """On smooth images 3x3 taps stand in for 5x5 taps though most of the weights' energy is outside."""
    calibration = _smooth(batches=8)
    by_weights = ShrinkKernels(energy=0.1).apply_with(Rewriter(_single(5)), Context(calibration=calibration))
    assert by_weights.rewritten == 0
    assert by_weights.skipped[0][1].startswith("every crop loses at least")
    assert by_weights.skipped[0][1].endswith("% of the weights' energy, at most 10.00% may go")
    graph = _single(5)
    before = graph.clone()
    by_output = ShrinkKernels(energy=0.1, measure="output").apply_with(Rewriter(graph), Context(calibration=calibration))
    assert by_output.rewritten == 1
    (x,) = next(iter(_smooth(batches=1, seed=2))).inputs
    old, new = (Interpreter(item).run(x)[0] for item in (before, graph))
    assert float((old - new).square().sum() / (old - old.mean()).square().sum()) < 0.15


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_fitted_kernel_is_the_least_squares_solution(rank: int, groups: int) -> None:
    """Against torch.linalg.lstsq on patches that are written out by unfolding."""
    module = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[rank](4, 6, 3, 2, 1, groups=groups)
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(32, 4, *(1,) * rank, generator=generator) + 0.3 * torch.randn(32, 4, *(9,) * rank, generator=generator)
    graph = graphopt.capture(module, (x,))
    node = next(iter(graph.nodes))
    weight = module.weight.detach()
    moments = patch_moments(node, [x[:16], x[16:]], (3,) * rank)
    kept = torch.zeros((3,) * rank, dtype=torch.bool)
    kept[(slice(1, 2),) * rank] = True
    assert module.bias is not None
    fit = fit_kernel(moments, weight.flatten(2), kept.flatten(), bias=module.bias.detach())
    seen = x[torch.arange(32) % 4 != 3]  # every fourth image is for measuring
    target = module(seen).detach().double()
    padded = torch.nn.functional.pad(seen, [1, 1] * rank)
    centre = padded[(slice(None), slice(None), *(slice(1, 1 + 2 * (target.shape[2] - 1) + 1, 2),) * rank)].double()
    for group in range(groups):
        rows = centre[:, group * (4 // groups) : (group + 1) * (4 // groups)].flatten(2).transpose(1, 2).reshape(-1, 4 // groups)
        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
        outs = slice(group * (6 // groups), (group + 1) * (6 // groups))
        wanted = torch.linalg.lstsq(rows, target[:, outs].flatten(2).transpose(1, 2).reshape(-1, 6 // groups)).solution
        assert fit.bias is not None
        assert torch.allclose(fit.weight[outs].flatten(1), wanted[:-1].T, atol=1e-4)
        assert torch.allclose(fit.bias[outs], wanted[-1], atol=1e-4)


def test_reasons() -> None:
    graph = filled(
        """
        graph g(%x: f32[1,4,8,8], %v: f32[4,4,3,3]) {
          param %valid.weight: f32[4,4,3,3]
          param %shared.weight: f32[4,4,3,3]
          param %small.weight: f32[4,4,1,1]
          param %up.weight: f32[4,4,3,3]
          %a: f32[1,4,6,6] = conv2d(%x, %valid.weight, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %b: f32[1,4,6,6] = conv2d(%a, %shared.weight, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
          %c: f32[1,4,6,6] = conv2d(%b, %shared.weight, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
          %d: f32[1,4,6,6] = conv2d(%c, %small.weight, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %e: f32[1,4,6,6] = conv2d(%d, %v, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
          %y: f32[1,4,6,6] = conv_transpose2d(%e, %up.weight, none)
              {dilation=(1, 1), groups=1, output_padding=(0, 0), padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """
    )
    outcome = ShrinkKernels(exclude=("up",)).apply_with(Rewriter(graph), Context())
    assert outcome.skipped == (
        ("valid", "no crop of the 3x3 kernel keeps the size of the result: padding is too small"),
        ("shared", "%shared.weight has 2 readers, needs 1"),
        ("shared", "%shared.weight has 2 readers, needs 1"),
        ("e", "%v: f32[4,4,3,3] is computed at run time, needs a parameter"),
        ("up", "excluded by 'up'"),
    )


def test_a_transposed_convolution_is_cut_but_not_measured() -> None:
    text = """
    graph g(%x: f32[1,4,6,6]) {
      param %up.weight: f32[4,4,3,3]
      %y: f32[1,4,6,6] = conv_transpose2d(%x, %up.weight, none)
          {dilation=(1, 1), groups=1, output_padding=(0, 0), padding=(1, 1), stride=(1, 1)}
      return %y
    }
    """
    context = Context(calibration=Calibration([Batch((torch.randn(1, 4, 6, 6),))]))
    outcome = ShrinkKernels(measure="output").apply_with(Rewriter(filled(text)), context)
    assert outcome.skipped == (("up", "up is a transposed convolution, so its outputs were not measured"),)
    graph = filled(text)
    assert ShrinkKernels(energy=0.99).apply_with(Rewriter(graph), context).rewritten == 1
    verify(graph)


def test_a_sparse_kernel_is_cut_and_keeps_its_zeros() -> None:
    def sparse() -> Graph:
        graph = _single(5)
        weight = torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(4)) * 0.01
        weight[:, ::2] = 0
        weight[:, 1::2, 1:4, 1:4] = 1.0
        set_state(graph, "conv.weight", weight)
        Rewriter(graph).annotate("conv.weight", Sparsity(SparsityPattern.UNSTRUCTURED, 0.5))
        return graph

    graph, context = sparse(), Context(calibration=_smooth())
    wanted = _numbers(graph, "conv.weight")[:, :, 1:4, 1:4]
    outcome = ShrinkKernels(energy=0.01).apply_with(Rewriter(graph), context)
    assert outcome.notes[0] == "conv is sparse, a fit would fill its zeros: cut without refit"
    assert outcome.notes[1].startswith("conv: 5x5 -> 3x3, loses 0.")
    assert graph.states["conv.weight"].type.text == "f32[8,4,3,3] sparse<unstructured 0.5>"
    assert torch.equal(_numbers(graph, "conv.weight"), wanted)
    verify(graph)
    outcome = ShrinkKernels(measure="output").apply_with(Rewriter(sparse()), context)
    assert outcome.skipped == (("conv", "conv is sparse, a fit would fill its zeros, so its outputs were not measured"),)


def test_errors() -> None:
    graph = _single(3)
    with pytest.raises(PassError, match="shrink-kernels with measure='output' needs calibration data"):
        ShrinkKernels(measure="output").run(graph)
    with pytest.raises(PassOptionError, match=r"option 'energy' of shrink-kernels is 1\.5, needs a number >= 0\.0 and <= 1\.0"):
        ShrinkKernels(energy=1.5)
    with pytest.raises(PassOptionError, match="'cnv' in only is the name of nothing that this pass works on"):
        ShrinkKernels(only=("cnv",)).run(graph)


def test_mobilenet_through_the_pass_manager() -> None:
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small(weights=None).eval()
    x = torch.randn(2, 3, 48, 48)
    graph = graphopt.capture(model, (x,))
    context = Context(calibration=Calibration([Batch((x,))]))
    pass_ = ShrinkKernels(energy=0.7, smallest=3)
    result = PassManager(pass_, context=context, strict=True).run(graph)
    assert result.records[0].rewritten > 5
    assert set(result.graph.states) == set(graph.states)
    module = result.graph.to_module().train()
    module(x).sum().backward()


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs_stay_valid(seed: int) -> None:
    graph = construct_graph(seed, symbolic=seed == 1)
    context = Context(calibration=Calibration([Batch(random_inputs(graph, seed=seed))]))
    for pass_ in (ShrinkKernels(energy=0.9), ShrinkKernels(energy=0.9, measure="output"), ShrinkKernels(energy=0.9, refit=False)):
        copy = graph.clone()
        pass_.apply_with(Rewriter(copy), context)
        verify(copy)
        Interpreter(copy).run(*random_inputs(graph, seed=5))
