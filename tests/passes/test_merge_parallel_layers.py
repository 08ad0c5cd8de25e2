from __future__ import annotations

import pytest
import torch

from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.passes.remove.merge_parallel_layers import MergeParallelLayers
from tests.support.folding import check_pass, filled, set_state

POINT = "{dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}"
KERNEL = "{dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}"
BEFORE = f"""graph g(%x: f32[2,4,6,6]) {{
  param %w3: f32[4,4,3,3]
  param %w1: f32[4,4,1,1]
  param %b1: f32[4]
  param %gamma: f32[4]
  param %beta: f32[4]
  buffer %mean: f32[4]
  buffer %var: f32[4]
  %a: f32[2,4,6,6] = conv2d(%x, %w3, none) {KERNEL}
  %b: f32[2,4,6,6] = conv2d(%x, %w1, %b1) {POINT}
  %c: f32[2,4,6,6] = batch_norm(%x, %gamma, %beta, %mean, %var) {{eps=1e-05, mode="follow", momentum=0.1}}
  %s: f32[2,4,6,6] = add(%b, %a)
  %y: f32[2,4,6,6] = add(%s, %c)
  return %y
}}
"""
AFTER = f"""graph g(%x: f32[2,4,6,6]) {{
  param %w3_folded: f32[4,4,3,3]
  param %w3.bias_folded: f32[4]
  %y: f32[2,4,6,6] = conv2d(%x, %w3_folded, %w3.bias_folded) {KERNEL}
  return %y
}}
"""


def test_the_branches_of_repvgg_become_one_convolution() -> None:
    graph = filled(BEFORE)
    check_pass(MergeParallelLayers(), graph)
    assert show(graph) == AFTER
    empty = parse(BEFORE)
    MergeParallelLayers().run(empty)
    assert show(empty) == AFTER


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("signs", ["add add", "sub add", "add sub", "sub sub"])
def test_groups_and_signs(groups: int, signs: str) -> None:
    first, second = signs.split()
    text = BEFORE.replace("groups=1", f"groups={groups}").replace("f32[4,4,", f"f32[4,{4 // groups},")
    text = text.replace("%s: f32[2,4,6,6] = add", f"%s: f32[2,4,6,6] = {first}").replace(
        "%y: f32[2,4,6,6] = add", f"%y: f32[2,4,6,6] = {second}"
    )
    graph = filled(text.replace(f"{second}(%s, %c)", f"{second}(%s, %x)"))
    check_pass(MergeParallelLayers(), graph)
    assert [node.op for node in graph.nodes if node.op != "batch_norm"] == ["conv2d"]


def test_what_can_not_be_merged_is_added_behind() -> None:
    graph = filled(BEFORE.replace("(%x: f32[2,4,6,6])", "(%x: f32[2,4,6,6], %z: f32[2,4,6,6])").replace("add(%s, %c)", "sub(%z, %s)"))
    check_pass(MergeParallelLayers(), graph)
    assert [node.op for node in graph.nodes] == ["batch_norm", "conv2d", "add"]


def test_a_low_rank_adapter_becomes_part_of_its_linear() -> None:
    graph = filled("""graph g(%x: f32[2,5,8]) {
  param %w: f32[6,8]
  param %bias: f32[6]
  param %a: f32[2,8]
  param %ab: f32[2]
  param %b: f32[6,2]
  %y: f32[2,5,6] = linear(%x, %w, %bias)
  %h: f32[2,5,2] = linear(%x, %a, %ab)
  %l: f32[2,5,6] = linear(%h, %b, none)
  %z: f32[2,5,6] = add(%y, %l)
  return %z
}""")
    check_pass(MergeParallelLayers(), graph)
    assert [node.op for node in graph.nodes] == ["linear"]


def test_a_skip_connection_goes_into_a_linear() -> None:
    graph = filled("""graph g(%x: f32[n,5,8]) where n in [1, 3] {
  param %w: f32[8,8]
  %y: f32[n,5,8] = linear(%x, %w, none)
  %z: f32[n,5,8] = sub(%x, %y)
  return %z
}""")
    check_pass(MergeParallelLayers(), graph)
    assert [node.op for node in graph.nodes] == ["linear"]


def test_a_point_in_a_dilated_kernel_of_one_axis() -> None:
    graph = filled("""graph g(%x: f32[2,4,9]) {
  param %k: f32[3,4,3]
  param %p: f32[3,4,1]
  %a: f32[2,3,9] = conv1d(%x, %k, none) {dilation=(2,), groups=1, padding=(2,), stride=(1,)}
  %b: f32[2,3,9] = conv1d(%x, %p, none) {dilation=(1,), groups=1, padding=(0,), stride=(1,)}
  %y: f32[2,3,9] = add(%a, %b)
  return %y
}""")
    check_pass(MergeParallelLayers(), graph)
    assert [node.op for node in graph.nodes] == ["conv1d"]


TWO = """graph g(%x: f32[2,4,7,7]) {
  param %w3: f32[5,4,3,3]
  param %w1: f32[5,4,1,1]
  %a: f32[2,5,4,4] = conv2d(%x, %w3, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(2, 2)}
  %b: f32[2,5,4,4] = conv2d(%x, %w1, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(2, 2)}
  %y: f32[2,5,4,4] = add(%a, %b)
  return %y
}"""


def test_with_strides() -> None:
    graph = filled(TWO)
    check_pass(MergeParallelLayers(), graph)
    assert graph.node_count == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            TWO.replace("f32[2,4,7,7]", "f32[2,4,4,4]")
            .replace("padding=(0, 0), stride=(2, 2)", "padding=(0, 0), stride=(1, 1)")
            .replace("padding=(1, 1), stride=(2, 2)", "padding=(3, 3), stride=(2, 2)"),
            "%b and %a have stride (1, 1) and (2, 2), needs the same",
        ),
        (
            BEFORE.replace("f32[4,4,3,3]", "f32[4,4,1,3]")
            .replace("padding=(1, 1)", "padding=(0, 1)")
            .replace("f32[4,4,1,1]", "f32[4,4,3,1]")
            .replace("padding=(0, 0)", "padding=(1, 0)")
            .replace("add(%s, %c)", "add(%s, 1.0)"),
            "kernel (1, 3) padded by (0, 1) is not within kernel (3, 1) padded by (1, 0)",
        ),
    ],
)
def test_what_stays_says_why(text: str, reason: str) -> None:
    result = check_pass(MergeParallelLayers(), filled(text), rewritten=0)
    assert [why for _, why in result.skipped] == [reason]


def test_other_readers_keep_a_layer_apart() -> None:
    graph = filled(TWO.replace("return %y", "return %y, %b"))
    check_pass(MergeParallelLayers(), graph, rewritten=0)


def test_numbers_that_can_not_be_merged() -> None:
    graph = filled(BEFORE.replace("add(%b, %a)", "add(%z, %a)").replace("[2,4,6,6])", "[2,4,6,6], %z: f32[2,4,6,6])"))
    set_state(graph, "var", torch.full((4,), -1.0))
    (skipped,) = MergeParallelLayers().run(graph).skipped
    assert skipped == ("y", "the scale of channel 0 is nan, needs a finite number")
