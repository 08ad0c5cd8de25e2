from __future__ import annotations

import pytest

from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.passes.remove.form_linear import FormLinear
from graphopt.passes.remove.merge_affine import MergeAffine
from tests.support.folding import check_pass, filled

BEFORE = """graph g(%x: f32[batch,4,8]) where batch in [1, 4] {
  param %w: f32[8,16]
  param %b: f32[16]
  %m: f32[batch,4,16] = matmul(%x, %w)
  %y: f32[batch,4,16] = add(%m, %b)
  return %y
}
"""
AFTER = """graph g(%x: f32[batch,4,8]) where batch in [1, 4] {
  param %b: f32[16]
  param %w_folded: f32[16,8]
  %m: f32[batch,4,16] = linear(%x, %w_folded, none)
  %y: f32[batch,4,16] = add(%m, %b)
  return %y
}
"""


def test_a_product_with_a_parameter_becomes_a_layer_and_then_takes_the_bias() -> None:
    graph = filled(BEFORE)
    check_pass(FormLinear(), graph)
    assert show(graph) == AFTER
    check_pass(MergeAffine(), graph)
    assert [node.op for node in graph.nodes] == ["linear"]
    empty = parse(BEFORE)
    FormLinear().run(empty)
    assert show(empty) == AFTER


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("return %y", "%z: f32[batch,4,16] = matmul(%x, %w)\n  return %y, %z", "%w has 2 readers, needs 1"),
        ("param %w: f32[8,16]", "param %w: f32[4,8,16]", "%w is f32[4,8,16], needs 2 axes"),
    ],
)
def test_what_stays_says_why(old: str, new: str, reason: str) -> None:
    text = BEFORE.replace(old, new)
    if "[4,8,16]" in new:
        text = text.replace("batch,4,8", "4,2,8").replace("batch,4,16", "4,2,16").replace(" where batch in [1, 4]", "")
    assert check_pass(FormLinear(), filled(text), rewritten=0).skipped[0] == ("m", reason)


def test_a_vector_on_the_left_is_left() -> None:
    text = """graph g(%x: f32[8]) {
  param %w: f32[8,16]
  %m: f32[16] = matmul(%x, %w)
  return %m
}"""
    assert check_pass(FormLinear(), filled(text), rewritten=0).skipped == (("m", "%x is f32[8], needs 2 or more axes"),)
