from __future__ import annotations

import pytest
import torch

from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.passes.remove.remove_idle_kernel_borders import RemoveIdleKernelBorders
from graphopt.pipeline.passes import NumericClass
from tests.support.folding import check_pass, filled, set_state
from tests.support.pass_checks import check_kept, check_numbers, check_rewrite


def test_zero_rows_of_a_kernel_go_with_their_padding() -> None:
    graph = filled(
        """
        graph g(%x: f32[1,4,6,6]) {
          param %w: f32[8,4,3,3]
          %y: f32[1,8,6,6] = conv2d(%x, %w, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """
    )
    weight = graph.value("w")
    state = graph.state_of(weight)
    assert state is not None
    assert state.data is not None
    tensor = state.data.tensor().clone()
    tensor[:, :, [0, 2]] = 0
    set_state(graph, "w", tensor)
    before = graph.clone()
    assert RemoveIdleKernelBorders().run(graph).rewritten == 1
    assert show(graph) == show(
        parse(
            """
            graph g(%x: f32[1,4,6,6]) {
              param %w_folded: f32[8,4,1,3]
              %y: f32[1,8,6,6] = conv2d(%x, %w_folded, none) {dilation=(1, 1), groups=1, padding=(0, 1), stride=(1, 1)}
              return %y
            }
            """
        )
    )
    check_numbers(before, graph, NumericClass.ROUNDING)


def test_an_annotation_is_true_of_the_taps_that_stay() -> None:
    graph = filled(
        """
        graph g(%x: f32[1,4,6,6]) {
          param %w: f32[8,4,3,3] sparse<unstructured 0.5>
          %y: f32[1,8,6,6] = conv2d(%x, %w, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """
    )
    tensor = torch.ones(8, 4, 3, 3)
    tensor[:, :, [0, 2]] = 0
    tensor[:, 0] = 0
    set_state(graph, "w", tensor)
    assert RemoveIdleKernelBorders().run(graph).rewritten == 1
    assert graph.states["w_folded"].type.text == "f32[8,4,1,3] sparse<unstructured 0.25>"


def test_taps_that_meet_only_padding_go() -> None:
    check_rewrite(
        RemoveIdleKernelBorders(),
        """
        graph g(%x: f32[2,4,1,2]) {
          param %w: f32[8,2,5,5]
          param %b: f32[8]
          %y: f32[2,8,1,2] = conv2d(%x, %w, %b) {dilation=(1, 1), groups=2, padding=(2, 2), stride=(1, 1)}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,4,1,2]) {
          param %b: f32[8]
          param %w_folded: f32[8,2,1,3]
          %y: f32[2,8,1,2] = conv2d(%x, %w_folded, %b) {dilation=(1, 1), groups=2, padding=(0, 1), stride=(1, 1)}
          return %y
        }
        """,
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("ends", [(0, 1), (1, 0), (1, 1), (2, 2), (1, 2)])
def test_zero_borders_of_every_geometry(rank: int, transposed: bool, stride: int, dilation: int, ends: tuple[int, int]) -> None:
    """Whatever is cut, the numbers stay; a symmetric cut is always made where the padding allows it."""
    kernel, padding = 5, 2 * dilation
    op = f"conv_transpose{rank}d" if transposed else f"conv{rank}d"
    extra = stride - 1 if transposed else 0
    size = 9
    if transposed:
        result = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
    else:
        result = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1

    def spread(number: int) -> str:
        return "(" + ", ".join([str(number)] * rank) + ("," if rank == 1 else "") + ")"

    def sizes(number: int) -> str:
        return ",".join([str(number)] * rank)

    attrs = f"dilation={spread(dilation)}, groups=1, padding={spread(padding)}, stride={spread(stride)}"
    attrs += f", output_padding={spread(extra)}" if transposed else ""
    text = f"""
    graph g(%x: f32[1,3,{sizes(size)}]) {{
      param %w: f32[{"3,2" if transposed else "2,3"},{sizes(kernel)}]
      %y: f32[1,2,{sizes(result)}] = {op}(%x, %w, none) {{{attrs}}}
      return %y
    }}
    """
    graph = filled(text)
    state = graph.states["w"]
    assert state.data is not None
    tensor = state.data.tensor().clone()
    for axis in range(2, 2 + rank):
        tensor.narrow(axis, 0, ends[0]).zero_()
        tensor.narrow(axis, kernel - ends[1], ends[1]).zero_()
    set_state(graph, "w", tensor)
    before = graph.clone()
    fired = RemoveIdleKernelBorders().run(graph).rewritten
    check_numbers(before, graph, NumericClass.ROUNDING)
    if ends[0] == ends[1]:
        assert fired == 1
        left = next(iter(graph.states.values())).type.static_shape[2:]
        assert left == (kernel - sum(ends),) * rank


def test_unpadded_kernel_says_why_it_stays() -> None:
    graph = filled(
        """
        graph g(%x: f32[1,4,6,6]) {
          param %w: f32[8,4,3,3]
          %y: f32[1,8,4,4] = conv2d(%x, %w, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          return %y
        }
        """
    )
    tensor = torch.zeros(8, 4, 3, 3)
    tensor[:, :, 1, 1] = 1
    set_state(graph, "w", tensor)
    result = RemoveIdleKernelBorders().run(graph)
    assert result.rewritten == 0
    assert result.skipped == (
        (
            "y",
            "the first 1 and last 1 of 3 taps on spatial axis 0 could go, "
            "but with padding 0, dilation 1 and stride 1 the output would get another size",
        ),
    )


def test_computed_kernel_stays() -> None:
    check_kept(
        RemoveIdleKernelBorders(),
        """
        graph g(%x: f32[1,4,1,1], %w: f32[8,4,3,3]) {
          %y: f32[1,8,1,1] = conv2d(%x, %w, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """,
        "%w: f32[8,4,3,3] is computed at run time, needs a parameter",
    )


def test_symbolic_size_says_nothing_about_padding() -> None:
    check_kept(
        RemoveIdleKernelBorders(),
        """
        graph g(%x: f32[1,4,size,size]) where size in [1, 64] {
          param %w: f32[8,4,3,3]
          %y: f32[1,8,size,size] = conv2d(%x, %w, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """,
    )


def test_zero_border_goes_at_every_size() -> None:
    graph = filled(
        """
        graph g(%x: f32[1,4,size,size]) where size in [1, 64] {
          param %w: f32[8,4,3,3]
          %y: f32[1,8,size,size] = conv2d(%x, %w, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
          return %y
        }
        """
    )
    tensor = torch.zeros(8, 4, 3, 3)
    tensor[:, :, 1, 1] = torch.randn(8, 4)
    set_state(graph, "w", tensor)
    check_pass(RemoveIdleKernelBorders(), graph)
    assert graph.states["w_folded"].type.static_shape == (8, 4, 1, 1)
