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
from graphopt.ops import verify
from graphopt.passes.shrink.shrink_pools import ShrinkPools
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.probes import random_inputs
from graphopt.rewrite.rewriter import Rewriter
from tests.support.pass_constructs import construct_graph


def _max_pool(size: int, result: int, *, stride: int = 2, kernel: int = 3, padding: int = 1, ceil: bool = False) -> Graph:
    graph = parse(
        f"""
        graph g(%x: f32[1,2,{size},{size}]) {{
          %pool: f32[1,2,{result},{result}] = max_pool2d(%x)
              {{ceil_mode={str(ceil).lower()}, dilation=(1, 1), kernel=({kernel}, {kernel}),
               padding=({padding}, {padding}), stride=({stride}, {stride})}}
          return %pool
        }}
        """
    )
    verify(graph)
    return graph


def _kernel_and_padding(graph: Graph) -> tuple[object, object]:
    node = graph.value("pool").producer
    assert node is not None
    return node.attrs["kernel"], node.attrs["padding"]


def test_overlapping_windows_shrink_to_the_stride() -> None:
    graph = _max_pool(8, 4)
    result = ShrinkPools().run(graph)
    assert result.notes == ("pool: 3x3 -> 2x2",)
    assert show(graph) == show(
        parse(
            """
            graph g(%x: f32[1,2,8,8]) {
              %pool: f32[1,2,4,4] = max_pool2d(%x) {ceil_mode=false, dilation=(1, 1), kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
              return %pool
            }
            """
        )
    )


@pytest.mark.parametrize(
    ("graph", "wanted"),
    [
        (_max_pool(7, 4), ((2, 2), (1, 1))),
        (_max_pool(9, 4, padding=0), ((2, 2), (0, 0))),
        (_max_pool(8, 4, padding=0, ceil=True), ((2, 2), (0, 0))),
        (_max_pool(9, 3, stride=3, kernel=5), ((3, 3), (0, 0))),
    ],
)
def test_the_size_stays_on_odd_and_even_images(graph: Graph, wanted: tuple[object, object]) -> None:
    assert ShrinkPools().run(graph).rewritten == 1
    verify(graph)
    assert _kernel_and_padding(graph) == wanted


def test_every_element_is_still_looked_at() -> None:
    """A single large number anywhere in the image shows in the result."""
    graph = _max_pool(8, 4)
    ShrinkPools().run(graph)
    for place in range(64):
        x = torch.zeros(1, 2, 64)
        x[:, :, place] = 1
        assert float(Interpreter(graph).run(x.reshape(1, 2, 8, 8))[0].max()) == 1


def test_pools_with_stride_one() -> None:
    graph = _max_pool(8, 8, stride=1)
    assert ShrinkPools().run(graph).skipped == (("pool", "stride is 1, so the pool smooths; unit_stride=true takes it out"),)
    assert ShrinkPools(unit_stride=True).run(graph).rewritten == 1
    assert graph.node_count == 0
    assert graph.outputs == graph.inputs


def test_averages_and_their_divisors() -> None:
    text = """
    graph g(%x: f32[1,2,9,9]) {{
      %pool: f32[1,2,4,4] = avg_pool2d(%x)
          {{ceil_mode=false, count_include_pad=true, divisor_override={divisor}, kernel=({kernel}), padding=({padding}), stride=({stride})}}
      return %pool
    }}
    """
    graph = parse(text.format(divisor="none", kernel="3, 3", padding="0, 0", stride="2, 2"))
    ShrinkPools().run(graph)
    x = torch.arange(162.0).reshape(1, 2, 9, 9)
    assert torch.equal(Interpreter(graph).run(x)[0], torch.nn.functional.avg_pool2d(x[:, :, :8, :8], 2))
    graph = parse(text.format(divisor="18", kernel="3, 3", padding="0, 0", stride="2, 2"))
    ShrinkPools().run(graph)
    node = graph.value("pool").producer
    assert node is not None
    assert node.attrs["divisor_override"] == 8
    graph = parse(text.format(divisor="5", kernel="3, 3", padding="0, 0", stride="2, 2"))
    assert ShrinkPools().run(graph).skipped == (("pool", "divisor_override 5 for 9 elements has no whole counterpart for (2, 2)"),)


def test_a_tolerance_is_held_on_data() -> None:
    flat = Context(calibration=Calibration([Batch((torch.ones(1, 2, 8, 8),))]))
    rough = Context(calibration=Calibration([Batch((torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)),))]))
    outcome = ShrinkPools(tolerance=0.01).apply_with(Rewriter(_max_pool(8, 4)), flat)
    assert outcome.notes == ("pool: 3x3 -> 2x2, changes its result by 0",)
    outcome = ShrinkPools(tolerance=0.01).apply_with(Rewriter(_max_pool(8, 4)), rough)
    assert outcome.rewritten == 0
    assert outcome.skipped[0][1].startswith("its result would change by 0.")
    assert outcome.skipped[0][1].endswith(", at most 0.01 is allowed")


def test_reasons_and_errors() -> None:
    assert ShrinkPools().run(_max_pool(8, 4, kernel=2, padding=0)).skipped == (
        ("pool", "windows of (2, 2) do not overlap with stride (2, 2)"),
    )
    with pytest.raises(PassOptionError, match=r"all of 1 are left out, for example pool: excluded by 'po\*'"):
        ShrinkPools(exclude=("po*",)).run(_max_pool(8, 4))
    with pytest.raises(PassError, match="shrink-pools with a tolerance needs calibration data"):
        ShrinkPools(tolerance=0.1).run(_max_pool(8, 4))
    with pytest.raises(PassOptionError, match="'maxpool' in only is the name of nothing"):
        ShrinkPools(only=("maxpool",)).run(_max_pool(8, 4))
    with pytest.raises(PassOptionError, match="option 'tolerance' of shrink-pools is -1"):
        ShrinkPools(tolerance=-1.0)


def test_resnet18_through_the_pass_manager() -> None:
    model = torchvision.models.resnet18(weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    result = PassManager(ShrinkPools(), strict=True).run(graphopt.capture(model, (x,)))
    assert result.records[0].notes == ("maxpool: 3x3 -> 2x2",)


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs_stay_valid(seed: int) -> None:
    graph = construct_graph(seed, symbolic=seed == 1)
    context = Context(calibration=Calibration([Batch(random_inputs(graph, seed=seed))]))
    for pass_ in (ShrinkPools(unit_stride=True), ShrinkPools(unit_stride=True, tolerance=0.2)):
        copy = graph.clone()
        pass_.apply_with(Rewriter(copy), context)
        verify(copy)
        Interpreter(copy).run(*random_inputs(graph, seed=5))
