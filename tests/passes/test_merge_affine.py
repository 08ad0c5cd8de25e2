from __future__ import annotations

import pytest
import torch

from graphopt.ir.graph import Graph, GraphEditor
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ir.types import DType, TensorType
from graphopt.passes.remove.merge_affine import MergeAffine
from tests.support.folding import check_pass, filled, set_state

LAYER_SCALE = """graph g(%x: f32[2,5,6]) {
  param %w: f32[4,6]
  param %gamma: f32[4,1]
  %linear: f32[2,5,4] = linear(%x, %w, none)
  %permute: f32[2,4,5] = permute(%linear) {axes=(0, 2, 1)}
  %mul: f32[2,4,5] = mul(%permute, %gamma)
  return %mul
}
"""
SCALED = """graph g(%x: f32[2,5,6]) {
  param %w_folded: f32[4,6]
  %linear_1: f32[2,5,4] = linear(%x, %w_folded, none)
  %mul: f32[2,4,5] = permute(%linear_1) {axes=(0, 2, 1)}
  return %mul
}
"""


def test_a_layer_scale_goes_up_into_the_linear() -> None:
    graph = filled(LAYER_SCALE)
    check_pass(MergeAffine(), graph)
    assert show(graph) == SCALED
    graph = parse(LAYER_SCALE)
    MergeAffine().run(graph)
    assert show(graph) == SCALED


def test_the_scale_of_queries_goes_into_the_layer_that_makes_queries_keys_and_values() -> None:
    graph = filled("""graph g(%x: f32[2,5,8]) {
  param %w: f32[24,8]
  param %b: f32[24]
  %qkv: f32[2,5,24] = linear(%x, %w, %b)
  %split: f32[2,5,3,2,4] = reshape(%qkv) {shape=(2, 5, 3, 2, 4)}
  %turned: f32[3,2,2,5,4] = permute(%split) {axes=(2, 0, 3, 1, 4)}
  %v: f32[2,2,5,4] = select(%turned) {axis=0, index=2}
  %q: f32[2,2,5,4] = select(%turned) {axis=0, index=0}
  %k: f32[2,2,5,4] = select(%turned) {axis=0, index=1}
  %scaled: f32[2,2,5,4] = mul(%q, 0.5)
  %a: f32[2,2,5,4] = scaled_dot_product_attention(%scaled, %k, %v, none) {causal=false, dropout_p=0.0, grouped=false, scale=none}
  return %a
}""")
    check_pass(MergeAffine(), graph)
    assert "mul" not in [node.op for node in graph.nodes]


def test_the_scale_of_scores_goes_through_the_product_into_the_queries() -> None:
    graph = filled("""graph g(%x: f32[2,5,8]) {
  param %w: f32[8,8]
  param %u: f32[8,8]
  %q: f32[2,5,8] = linear(%x, %w, none)
  %k: f32[2,5,8] = linear(%x, %u, none)
  %t: f32[2,8,5] = permute(%k) {axes=(0, 2, 1)}
  %scores: f32[2,5,5] = matmul(%q, %t)
  %scaled: f32[2,5,5] = div(%scores, 4) {rounding=none}
  return %scaled
}""")
    check_pass(MergeAffine(), graph)
    assert [node.op for node in graph.nodes] == ["linear", "linear", "permute", "matmul"]


def test_a_chain_goes_into_a_norm_or_an_embedding() -> None:
    graph = filled("""graph g(%i: i64[3,5], %x: f32[2,4,6]) {
  param %table: f32[7,6]
  param %c: f32[6]
  %e: f32[3,5,6] = embedding(%table, %i) {padding_idx=none}
  %e1: f32[3,5,6] = mul(%e, 3.0)
  %e2: f32[3,5,6] = sub(%c, %e1)
  %n: f32[2,4,6] = layer_norm(%x, none, none) {eps=1e-05, normalized_shape=(6,)}
  %n1: f32[2,4,6] = mul(%n, %c)
  %n2: f32[2,4,6] = add(1.5, %n1)
  %r: f32[2,4,6] = rms_norm(%x, none) {eps=1e-06, normalized_shape=(6,)}
  %r1: f32[2,4,6] = mul(%c, %r)
  return %e2, %n2, %r1
}""")
    check_pass(MergeAffine(), graph, rewritten=3)
    assert [node.op for node in graph.nodes] == ["embedding", "layer_norm", "rms_norm"]


def test_an_addition_goes_down_into_the_bias() -> None:
    graph = filled("""graph g(%x: f32[2,4,6,6]) {
  param %w: f32[6,2,3,3]
  param %c: f32[1,4,1,1]
  %sub: f32[2,4,6,6] = sub(%x, %c)
  %div: f32[2,4,6,6] = div(%sub, 0.25) {rounding=none}
  %conv: f32[2,6,4,4] = conv2d(%div, %w, none) {dilation=(1, 1), groups=2, padding=(0, 0), stride=(1, 1)}
  return %conv
}""")
    check_pass(MergeAffine(), graph)
    assert [node.op for node in graph.nodes] == ["conv2d"]


def test_a_positive_scale_goes_up_through_relu() -> None:
    text = """graph g(%x: f32[2,6]) {
  param %w: f32[4,6]
  param %b: f32[4]
  %linear: f32[2,4] = linear(%x, %w, %b)
  %relu: f32[2,4] = relu(%linear)
  %mul: f32[2,4] = mul(%relu, 1.5)
  return %mul
}"""
    graph = filled(text)
    check_pass(MergeAffine(), graph)
    assert [node.op for node in graph.nodes] == ["linear", "relu"]
    (skipped,) = check_pass(MergeAffine(), filled(text.replace("1.5", "-1.5")), rewritten=0).skipped
    assert skipped[1].startswith("before it: %relu is a relu, needs scales known to be positive; behind it: %mul is an output")


CHAIN = """graph g(%x: f32[2,4]) {
  %a: f32[2,4] = mul(%x, 2.0)
  %b: f32[2,4] = add(%a, 1.0)
  %c: f32[2,4] = mul(%b, 0.25)
  %d: f32[2,4] = sub(3, %c)
  return %d
}
"""


def test_a_chain_of_literals_gets_shorter() -> None:
    graph = filled(CHAIN)
    check_pass(MergeAffine(), graph)
    assert show(graph).splitlines()[1:3] == ["  %mul: f32[2,4] = mul(%x, -0.5)", "  %d: f32[2,4] = add(%mul, 2.75)"]
    check_pass(MergeAffine(), graph, rewritten=0)


def test_a_chain_with_states_gets_shorter() -> None:
    graph = filled("""graph g(%x: f32[2,4,3]) {
  param %s: f32[4,1]
  constant %t: f32[]
  %a: f32[2,4,3] = mul(%x, %s)
  %b: f32[2,4,3] = mul(%a, %t)
  %c: f32[2,4,3] = div(%b, %s) {rounding=none}
  return %c
}""")
    check_pass(MergeAffine(), graph)
    assert [(state.name, state.type.text) for state in graph.states.values()] == [("c.mul_folded", "f32[4,1]")]


def test_a_very_long_chain() -> None:
    graph = Graph("long")
    editor = GraphEditor(graph)
    type_ = TensorType(DType.f32, (2, 3))
    value = editor.add_input("x", type_)
    for index in range(3000):
        value = editor.insert("add", (value, 0.5), {}, [(f"v{index}", type_)]).result
    editor.set_outputs([value])
    assert MergeAffine().run(graph).rewritten == 1
    assert [node.operands[1] for node in graph.nodes] == [1500.0]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("%gamma: f32[4,1]", "%gamma: f32[5]", "before it: the scale runs along axis 1 of %linear, needs its channels, axis 2"),
        ("return %mul", "return %mul, %linear", "before it: %linear has 2 readers, needs 1"),
        ("mul(%permute, %gamma)", "mul(%permute, inf)", "the scale of channel 0 is inf, needs a finite number"),
    ],
)
def test_what_stays_says_why(old: str, new: str, reason: str) -> None:
    (skipped,) = check_pass(MergeAffine(), filled(LAYER_SCALE.replace(old, new)), rewritten=0).skipped
    assert skipped[1].startswith(reason)


@pytest.mark.parametrize("operand", ["%y", "%full", "n"])
def test_what_is_no_constant_per_channel_is_not_mentioned(operand: str) -> None:
    text = f"""graph g(%x: f32[n,3], %y: f32[n,3]) where n in [1, 4] {{
  param %full: f32[2,3]
  %z: f32[n,3] = mul(%x, {operand})
  return %z
}}"""
    graph = parse(text if operand != "%full" else text.replace("n,3", "2,3").replace(" where n in [1, 4]", ""))
    assert MergeAffine().run(graph).skipped == ()


def test_a_large_shared_weight_is_not_copied() -> None:
    text = LAYER_SCALE.replace("return %mul", "%again: f32[2,5,4] = linear(%x, %w, none)\n  return %mul, %again")
    (skipped,) = check_pass(MergeAffine(max_copy_bytes=95), filled(text), rewritten=0).skipped
    assert "%w has 2 readers, a copy would take 96 bytes, at most 95 are worth it" in skipped[1]
    graph = filled(text)
    check_pass(MergeAffine(max_copy_bytes=96), graph)
    assert list(graph.states) == ["w", "w_folded"]


def test_a_shift_alone_leaves_the_shared_weight_as_it_is() -> None:
    text = LAYER_SCALE.replace("mul(%permute", "add(%permute").replace(
        "return %mul", "%again: f32[2,5,4] = linear(%x, %w, none)\n  return %mul, %again"
    )
    graph = filled(text)
    check_pass(MergeAffine(max_copy_bytes=0), graph)
    assert list(graph.states) == ["w", "w.bias_folded"]


def test_half_precision_and_nan() -> None:
    for dtype in ("f16", "bf16"):
        graph = filled(LAYER_SCALE.replace("f32", dtype))
        weight = torch.randn(4, 6).to(getattr(torch, {"f16": "float16", "bf16": "bfloat16"}[dtype]))
        weight[0, 0], weight[1, 0] = float("nan"), float("-inf")
        set_state(graph, "w", weight)
        check_pass(MergeAffine(), graph)
        assert graph.states["w_folded"].type.dtype.text == dtype


def test_the_option_is_printed() -> None:
    assert repr(MergeAffine(max_copy_bytes=3)) == "merge-affine{max_copy_bytes=3}"
