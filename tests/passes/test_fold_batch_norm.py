from __future__ import annotations

import pytest
import torch

from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.passes.remove.fold_batch_norm import FoldBatchNorm
from tests.support.folding import check_pass, filled, set_state

NORM = """
  param %bn.weight: f32[{c}]
  param %bn.bias: f32[{c}]
  buffer %bn.running_mean: f32[{c}]
  buffer %bn.running_var: f32[{c}]"""
APPLY = 'batch_norm({x}, %bn.weight, %bn.bias, %bn.running_mean, %bn.running_var) {{eps=1e-05, mode="follow", momentum=0.1}}'
PLAIN = "{dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}"

WINDOW = "kernel=(3, 3), padding=(0, 0), stride=(3, 3)"

BEFORE = f"""graph g(%x: f32[2,3,6,6]) {{
  param %conv.weight: f32[4,3,3,3]{NORM.format(c=4)}
  %conv: f32[2,4,4,4] = conv2d(%x, %conv.weight, none) {PLAIN}
  %bn: f32[2,4,4,4] = {APPLY.format(x="%conv")}
  %relu: f32[2,4,4,4] = relu(%bn)
  return %relu
}}
"""
AFTER = f"""graph g(%x: f32[2,3,6,6]) {{
  param %conv.weight_folded: f32[4,3,3,3]
  param %conv.bias_folded: f32[4]
  %bn: f32[2,4,4,4] = conv2d(%x, %conv.weight_folded, %conv.bias_folded) {PLAIN}
  %relu: f32[2,4,4,4] = relu(%bn)
  return %relu
}}
"""


def test_a_batch_norm_goes_into_the_convolution_before_it() -> None:
    graph = filled(BEFORE)
    assert check_pass(FoldBatchNorm(), graph).skipped == ()
    assert show(graph) == AFTER


def test_a_graph_without_numbers_is_rewritten_too() -> None:
    graph = parse(BEFORE)
    assert FoldBatchNorm().run(graph).rewritten == 1
    assert show(graph) == AFTER
    assert all(state.data is None for state in graph.states.values())


LAYERS = [
    ("conv1d", "f32[2,4,9]", "f32[6,2,3]", "f32[2,6,7]", "{dilation=(1,), groups=2, padding=(0,), stride=(1,)}", 6),
    ("conv2d", "f32[2,4,5,5]", "f32[4,1,3,3]", "f32[2,4,5,5]", "{dilation=(1, 1), groups=4, padding=(1, 1), stride=(1, 1)}", 4),
    (
        "conv3d",
        "f32[1,2,4,4,4]",
        "f32[3,2,2,2,2]",
        "f32[1,3,3,3,3]",
        "{dilation=(1, 1, 1), groups=1, padding=(0, 0, 0), stride=(1, 1, 1)}",
        3,
    ),
    (
        "conv_transpose2d",
        "f32[2,4,3,3]",
        "f32[4,3,2,2]",
        "f32[2,6,6,6]",
        "{dilation=(1, 1), groups=2, output_padding=(0, 0), padding=(0, 0), stride=(2, 2)}",
        6,
    ),
    ("linear", "f32[5,4]", "f32[3,4]", "f32[5,3]", "", 3),
]


@pytest.mark.parametrize(("op", "x", "weight", "result", "attrs", "channels"), LAYERS, ids=[layer[0] for layer in LAYERS])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_every_layer_takes_it(op: str, x: str, weight: str, result: str, attrs: str, channels: int, bias: bool, dtype: str) -> None:
    text = f"""graph g(%x: {x}) {{
  param %w: {weight}
  param %b: f32[{channels}]{NORM.format(c=channels)}
  %layer: {result} = {op}(%x, %w, {"%b" if bias else "none"}) {attrs}
  %bn: {result} = {APPLY.format(x="%layer")}
  return %bn
}}"""
    graph = filled(text.replace("f32", dtype))
    check_pass(FoldBatchNorm(), graph)
    assert [node.op for node in graph.nodes] == [op]


@pytest.mark.parametrize("missing", ["%bn.weight", "%bn.bias", "both"])
def test_a_batch_norm_without_weight_or_bias(missing: str) -> None:
    text = BEFORE
    for name in ("%bn.weight", "%bn.bias"):
        if missing in (name, "both"):
            text = text.replace(f"{name},", "none,")
    graph = filled(text)
    check_pass(FoldBatchNorm(), graph)
    assert [node.op for node in graph.nodes] == ["conv2d", "relu"]


def test_zero_variance_and_strange_weights() -> None:
    graph = filled(BEFORE)
    set_state(graph, "bn.running_var", torch.tensor([0.0, 1.0, 0.0, 2.0]))
    weight = torch.randn(4, 3, 3, 3)
    weight[0, 0, 0, 0], weight[1, 0, 0, 0] = float("nan"), float("inf")
    set_state(graph, "conv.weight", weight)
    check_pass(FoldBatchNorm(), graph)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('mode="follow"', 'mode="train"', 'mode is "train", needs "follow" or "eval": it normalises by the batch'),
        (
            "%bn.running_mean, %bn.running_var)",
            "none, none)",
            "has no running mean and variance, so it normalises by the batch in eval mode too",
        ),
        (
            "return %relu",
            "return %relu, %conv",
            "before it: %conv has 2 readers, needs 1; behind it: %relu is a relu, needs a shift of zero",
        ),
        ("%bn.weight, %bn.bias, ", "%x1, %bn.bias, ", "%x1: f32[4] is computed at run time, needs a parameter or buffer"),
    ],
)
def test_what_stays_says_why(old: str, new: str, reason: str) -> None:
    text = BEFORE.replace("(%x: f32[2,3,6,6])", "(%x: f32[2,3,6,6], %x1: f32[4])")
    result = check_pass(FoldBatchNorm(), filled(text.replace(old, new)), rewritten=0)
    assert result.skipped == (("bn", reason),)


def test_numbers_that_can_not_be_folded() -> None:
    graph = filled(BEFORE)
    set_state(graph, "bn.running_var", torch.tensor([1.0, -1.0, 1.0, 1.0]))
    assert FoldBatchNorm().run(graph).skipped == (("bn", "the scale of channel 1 is nan, needs a finite number"),)
    graph = filled(BEFORE.replace("f32", "f16"))
    set_state(graph, "conv.weight", torch.full((4, 3, 3, 3), 6e4, dtype=torch.float16))
    set_state(graph, "bn.weight", torch.full((4,), 2.0, dtype=torch.float16))
    set_state(graph, "bn.running_var", torch.ones(4, dtype=torch.float16))
    (skipped,) = FoldBatchNorm().run(graph).skipped
    assert "the folded %conv.weight_folded reaches 1.2e+05, more than f16 holds" in skipped[1]


def test_a_shared_weight_is_copied_and_stays_for_its_other_reader() -> None:
    text = BEFORE.replace("  %relu:", f"  %other: f32[2,4,4,4] = conv2d(%x, %conv.weight, none) {PLAIN}\n  %relu:")
    graph = filled(text.replace("return %relu", "return %relu, %other"))
    check_pass(FoldBatchNorm(), graph)
    assert list(graph.states) == ["conv.weight", "conv.weight_folded", "conv.bias_folded"]


def test_each_branch_of_a_concat_takes_its_part() -> None:
    graph = filled(f"""graph g(%x: f32[2,3,6,6]) {{
  param %a: f32[4,3,1,1]
  param %b: f32[2,3,1,1]
  param %bias: f32[2]{NORM.format(c=6)}
  %left: f32[2,4,6,6] = conv2d(%x, %a, none) {PLAIN}
  %right: f32[2,2,6,6] = conv2d(%x, %b, %bias) {PLAIN}
  %concat: f32[2,6,6,6] = concat(%left, %right) {{axis=1}}
  %bn: f32[2,6,6,6] = {APPLY.format(x="%concat")}
  return %bn
}}""")
    check_pass(FoldBatchNorm(), graph)
    assert [node.op for node in graph.nodes] == ["conv2d", "conv2d", "concat"]


def test_up_through_pooling_and_reshape() -> None:
    graph = filled(f"""graph g(%x: f32[n,3,6,6]) where n in [1, 8] {{
  param %w: f32[4,3,1,1]{NORM.format(c=4)}
  %conv: f32[n,4,6,6] = conv2d(%x, %w, none) {PLAIN}
  %pool: f32[n,4,1,1] = adaptive_avg_pool2d(%conv) {{output_size=(1, 1)}}
  %flat: f32[n,4] = reshape(%pool) {{shape=(n, 4)}}
  %bn: f32[n,4] = {APPLY.format(x="%flat")}
  return %bn
}}""")
    check_pass(FoldBatchNorm(), graph)
    assert [node.op for node in graph.nodes] == ["conv2d", "adaptive_avg_pool2d", "reshape"]


def test_down_into_every_reader() -> None:
    graph = filled(f"""graph g(%x: f32[2,4,6,6]) {{
  param %a: f32[6,2,3,3]
  param %b: f32[5,16]{NORM.format(c=4)}
  %bn: f32[2,4,6,6] = {APPLY.format(x="%x")}
  %conv: f32[2,6,4,4] = conv2d(%bn, %a, none) {{dilation=(1, 1), groups=2, padding=(0, 0), stride=(1, 1)}}
  %pool: f32[2,4,2,2] = avg_pool2d(%bn) {{ceil_mode=false, count_include_pad=true, divisor_override=none, {WINDOW}}}
  %flat: f32[2,16] = reshape(%pool) {{shape=(2, 16)}}
  %linear: f32[2,5] = linear(%flat, %b, none)
  return %conv, %linear
}}""")
    check_pass(FoldBatchNorm(), graph)
    assert sorted(node.op for node in graph.nodes) == ["avg_pool2d", "conv2d", "linear", "reshape"]


def test_down_through_zero_padding_needs_a_shift_of_zero() -> None:
    text = f"""graph g(%x: f32[2,4,6,6]) {{
  param %a: f32[6,4,3,3]{NORM.format(c=4)}
  %bn: f32[2,4,6,6] = {APPLY.format(x="%x")}
  %conv: f32[2,6,6,6] = conv2d(%bn, %a, none) {{dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}}
  return %conv
}}"""
    graph = filled(text)
    (skipped,) = check_pass(FoldBatchNorm(), graph, rewritten=0).skipped
    assert "behind it: %conv pads by (1, 1), needs no padding or a shift of zero: the border has no shift" in skipped[1]
    set_state(graph, "bn.bias", torch.zeros(4))
    set_state(graph, "bn.running_mean", torch.zeros(4))
    check_pass(FoldBatchNorm(), graph)
    assert show(graph).count("= conv2d(%x, %a_folded, none)") == 1


def test_down_into_a_transposed_convolution_with_groups() -> None:
    text = f"""graph g(%x: f32[2,4,3,3]) {{
  param %a: f32[4,3,KERNEL]{NORM.format(c=4)}
  %bn: f32[2,4,3,3] = {APPLY.format(x="%x")}
  %up: f32[2,6,SIZE] = conv_transpose2d(%bn, %a, none) {{dilation=(1, 1), groups=2, output_padding=(0, 0), padding=(0, 0), stride=(1, 1)}}
  return %up
}}"""
    check_pass(FoldBatchNorm(), filled(text.replace("KERNEL", "1,1").replace("SIZE", "3,3")))
    (skipped,) = check_pass(FoldBatchNorm(), filled(text.replace("KERNEL", "2,2").replace("SIZE", "4,4")), rewritten=0).skipped
    assert "spreads a (2, 2) kernel by (1, 1), needs size and stride 1 or a shift of zero" in skipped[1]


def test_two_batch_norms_in_a_row_become_none() -> None:
    text = BEFORE.replace("%relu: f32[2,4,4,4] = relu(%bn)", f"%relu: f32[2,4,4,4] = {APPLY.format(x='%bn')}")
    graph = filled(text)
    check_pass(FoldBatchNorm(), graph, rewritten=2)
    assert [node.op for node in graph.nodes] == ["conv2d"]
