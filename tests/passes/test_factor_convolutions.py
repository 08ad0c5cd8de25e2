from __future__ import annotations

import pytest
import torch
import torchvision  # pyright: ignore[reportMissingTypeStubs]

import graphopt
from graphopt.analysis.cost import cost
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import PassOptionError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ir.types import Sparsity, SparsityPattern
from graphopt.ops import verify
from graphopt.passes.shrink.factor_convolutions import FactorConvolutions
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.probes import random_inputs
from graphopt.rewrite.rewriter import Rewriter
from tests.support.folding import filled, largest_difference, set_state
from tests.support.pass_constructs import construct_graph


def _layer(kernel: tuple[int, int] = (3, 3), stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (1, 1)) -> Graph:
    sizes = [(12 + 2 * pad - size) // step + 1 for size, step, pad in zip(kernel, stride, padding, strict=True)]
    return filled(
        f"""
        graph g(%x: f32[2,16,12,12]) {{
          param %c.weight: f32[24,16,{kernel[0]},{kernel[1]}]
          param %c.bias: f32[24]
          %y: f32[2,24,{sizes[0]},{sizes[1]}] = conv2d(%x, %c.weight, %c.bias)
              {{dilation=(1, 1), groups=1, padding={padding}, stride={stride}}}
          return %y
        }}
        """
    )


def test_channels_and_a_pointwise_convolution() -> None:
    graph = _layer(stride=(2, 2))
    flops = cost(graph).flops
    outcome = FactorConvolutions(form="channels").apply_with(Rewriter(graph), Context())
    assert outcome.notes[0].startswith("c: channels, rank 10, 51% fewer multiplications, loses ")
    verify(graph)
    assert show(graph) == show(
        parse(
            """
            graph g(%x: f32[2,16,12,12]) {
              param %c.weight: f32[10,16,3,3]
              param %c.bias: f32[24]
              param %c.factor.weight: f32[24,10,1,1]
              %y.low_rank: f32[2,10,6,6] = conv2d(%x, %c.weight, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(2, 2)}
              %y: f32[2,24,6,6] = conv2d(%y.low_rank, %c.factor.weight, %c.bias)
                  {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
              return %y
            }
            """
        )
    )
    after = cost(graph).flops
    assert isinstance(flops, int)
    assert isinstance(after, int)
    assert after <= 0.5 * flops


def test_columns_and_rows() -> None:
    graph = _layer(kernel=(5, 3), stride=(2, 1), padding=(2, 1))
    flops = cost(graph).flops
    outcome = FactorConvolutions(form="spatial").apply_with(Rewriter(graph), Context())
    assert outcome.rewritten == 1
    verify(graph)
    rank = graph.states["c.weight"].type.static_shape[0]
    assert show(graph) == show(
        parse(
            f"""
            graph g(%x: f32[2,16,12,12]) {{
              param %c.weight: f32[{rank},16,5,1]
              param %c.bias: f32[24]
              param %c.factor.weight: f32[24,{rank},1,3]
              %y.low_rank: f32[2,{rank},6,12] = conv2d(%x, %c.weight, none) {{dilation=(1, 1), groups=1, padding=(2, 0), stride=(2, 1)}}
              %y: f32[2,24,6,12] = conv2d(%y.low_rank, %c.factor.weight, %c.bias)
                  {{dilation=(1, 1), groups=1, padding=(0, 1), stride=(1, 1)}}
              return %y
            }}
            """
        )
    )
    after = cost(graph).flops
    assert isinstance(flops, int)
    assert isinstance(after, int)
    assert after <= 0.5 * flops


@pytest.mark.parametrize(("kernel", "stride", "padding"), [((3, 3), (1, 1), (1, 1)), ((5, 3), (2, 2), (2, 0)), ((3, 5), (1, 2), (0, 2))])
@pytest.mark.parametrize("form", ["channels", "spatial"])
def test_kernels_of_low_rank_are_split_exactly(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], form: str
) -> None:
    graph = _layer(kernel, stride, padding)
    generator = torch.Generator().manual_seed(0)
    if form == "channels":
        weight = torch.einsum("mr,rcij->mcij", torch.randn(24, 3, generator=generator), torch.randn(3, 16, *kernel, generator=generator))
    else:
        columns, rows = torch.randn(3, 16, kernel[0], generator=generator), torch.randn(24, 3, kernel[1], generator=generator)
        weight = torch.einsum("mrj,rci->mcij", rows, columns)
    set_state(graph, "c.weight", weight)
    before = graph.clone()
    outcome = FactorConvolutions(energy=1e-10).apply_with(Rewriter(graph), Context())
    assert outcome.notes[0].startswith(f"c: {form}, rank 3, ")
    assert largest_difference(before, graph) < 1e-5  # the weight itself is of rank 3 to float32 only


def test_outputs_in_a_plane_need_no_more_channels_than_its_dimensions() -> None:
    """Inputs vary in one channel only, around a mean: three taps of it and the bias say everything."""
    graph = _layer(kernel=(3, 3), padding=(0, 0))
    before = graph.clone()
    generator = torch.Generator().manual_seed(0)
    offset = torch.randn(16, 1, 1, generator=generator)
    batches = [offset.repeat(2, 1, 12, 12).reshape(2, 16, 12, 12) for _ in range(3)]
    for batch in batches:
        batch[:, 0] += torch.randn(2, 12, 1, generator=generator)
    context = Context(calibration=Calibration([Batch((x,)) for x in batches[:2]]))
    outcome = FactorConvolutions(energy=1e-8, form="channels").apply_with(Rewriter(graph), context)
    assert outcome.notes[0].startswith("c: channels, rank 3, ")
    old, new = (Interpreter(item, precise=True).run(batches[2])[0] for item in (before, graph))
    assert float((old - new).norm() / old.norm()) < 1e-4


def test_reasons() -> None:
    graph = filled(
        """
        graph g(%x: f32[1,8,6,6]) {
          param %point.weight: f32[8,8,1,1]
          param %depth.weight: f32[8,1,3,3]
          param %full.weight: f32[8,8,3,3]
          %a: f32[1,8,6,6] = conv2d(%x, %point.weight, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %b: f32[1,8,6,6] = conv2d(%a, %depth.weight, none) {dilation=(1, 1), groups=8, padding=(1, 1), stride=(1, 1)}
          %y: f32[1,8,6,6] = conv2d(%b, %full.weight, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """
    )
    assert FactorConvolutions(ratio=0.95, form="spatial").apply_with(Rewriter(graph), Context()).skipped == (
        ("point", "a kernel of (1, 1) can't be split into columns and rows"),
        ("depth", "has 8 groups, needs 1"),
        ("full", "rank 1 needs 48 multiplications per position, the layer needs 576 and ratio 0.95 leaves less"),
    )
    assert FactorConvolutions(ratio=0.0).apply_with(Rewriter(graph), Context()).skipped[0] == ("point", "ratio 0 removes nothing")
    skipped = FactorConvolutions(energy=0.0, only=("full",)).apply_with(Rewriter(graph), Context()).skipped
    assert ("point", "not in only=('full',)") in skipped
    assert skipped[-1][1].startswith("rank ")
    assert "which loses at most 0.00%, needs" in skipped[-1][1]


def test_a_sparse_weight_stays() -> None:
    graph = _layer()
    Rewriter(graph).annotate("c.weight", Sparsity(SparsityPattern.N_M, 0.5, (2, 4)))
    skipped = FactorConvolutions().apply_with(Rewriter(graph), Context()).skipped
    assert skipped == (("c", "it is sparse: %c.weight is sparse<2:4 axis=1 0.5>, its factors would be dense"),)


def test_bad_options() -> None:
    with pytest.raises(PassOptionError, match=r'option .form. of factor-convolutions is "rows", needs one of "best"'):
        FactorConvolutions(form="rows")  # pyright: ignore[reportArgumentType]
    with pytest.raises(PassOptionError, match="'stem' in only is the name of nothing"):
        FactorConvolutions(only=("stem",)).run(_layer())


def test_resnet18_through_the_pass_manager() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    x = torch.randn(2, 3, 32, 32)
    graph = graphopt.capture(model, (x,))
    context = Context(calibration=Calibration([Batch((x,))]))
    pass_ = FactorConvolutions(ratio=0.4, only=("layer1.*", "layer2.0.*"))
    result = PassManager(pass_, context=context, strict=True).run(graph)
    assert result.records[0].rewritten == 7
    module = result.graph.to_module().train()
    module(x).sum().backward()
    assert all(parameter.grad is not None for name, parameter in module.named_parameters() if "factor" in name)


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs_stay_valid(seed: int) -> None:
    graph = construct_graph(seed, symbolic=seed == 1)
    context = Context(calibration=Calibration([Batch(random_inputs(graph, seed=seed))]))
    for pass_ in (FactorConvolutions(ratio=0.3), FactorConvolutions(energy=0.5), FactorConvolutions(use_data=False)):
        copy = graph.clone()
        pass_.apply_with(Rewriter(copy), context)
        verify(copy)
        Interpreter(copy).run(*random_inputs(graph, seed=5))
