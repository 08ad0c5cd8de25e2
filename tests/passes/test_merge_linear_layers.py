from __future__ import annotations

import pytest
import torch

import graphopt
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.passes.remove.merge_linear_layers import MergeLinearLayers
from tests.support.folding import check_pass, filled, set_state

BEFORE = """graph g(%x: f32[batch,4]) where batch in [1, 8] {
  param %a: f32[8,4]
  param %b: f32[8]
  param %c: f32[5,8]
  param %d: f32[5]
  %h: f32[batch,8] = linear(%x, %a, %b)
  %y: f32[batch,5] = linear(%h, %c, %d)
  return %y
}
"""
AFTER = """graph g(%x: f32[batch,4]) where batch in [1, 8] {
  param %c_folded: f32[5,4]
  param %d_folded: f32[5]
  %y: f32[batch,5] = linear(%x, %c_folded, %d_folded)
  return %y
}
"""


def test_two_linears_become_one() -> None:
    graph = filled(BEFORE)
    check_pass(MergeLinearLayers(), graph)
    assert show(graph) == AFTER
    empty = parse(BEFORE)
    MergeLinearLayers().run(empty)
    assert show(empty) == AFTER


SPARSE = """graph g(%x: f32[4,16]) {
  param %a.weight: f32[16,16]
  param %c.weight: f32[72,16]
  %h: f32[4,16] = linear(%x, %a.weight, none)
  %y: f32[4,72] = linear(%h, %c.weight, none)
  return %y
}"""


def test_sparse_layers_stay_two_where_their_product_has_more_numbers() -> None:
    """As a projection and the expansion behind it in a MobileNet."""
    sparse = graphopt.optimize(filled(SPARSE), ["sparsify-magnitude{ratio=0.8, dense_ends=false}"]).graph
    weights = [sparse.states[name].data for name in ("a.weight", "c.weight")]
    early, late = (data.tensor() for data in weights if data is not None)
    apart, merged = int((early != 0).sum() + (late != 0).sum()), int((late @ early != 0).sum())
    assert merged > 1.5 * apart
    result = check_pass(MergeLinearLayers(), sparse, rewritten=0)
    assert result.skipped == (("y", f"one layer has {merged} weights that are not zero, needs no more than the {apart} of two"),)
    set_state(sparse, "a.weight", torch.where(torch.arange(16)[:, None] < 1, early, 0.0))  # one row: their product has few
    check_pass(MergeLinearLayers(), sparse)
    check_pass(MergeLinearLayers(), filled(SPARSE))  # dense


@pytest.mark.parametrize("first", ["%b", "none"])
@pytest.mark.parametrize("second", ["%d", "none"])
def test_with_and_without_biases(first: str, second: str) -> None:
    graph = filled(BEFORE.replace("%a, %b)", f"%a, {first})").replace("%c, %d)", f"%c, {second})"))
    check_pass(MergeLinearLayers(), graph)
    (layer,) = graph.nodes
    assert (layer.operands[2] is None) == (first == second == "none")


CONVOLUTIONS = """graph g(%x: f32[2,3,9,9]) {
  param %a: f32[8,3,KERNEL]
  param %b: f32[8]
  param %c: f32[4,8,NEXT]
  param %d: f32[4]
  %h: f32[2,8,INNER] = conv2d(%x, %a, BIAS) {dilation=(1, 1), groups=1, padding=PAD, stride=STRIDE}
  %y: f32[2,4,OUTER] = conv2d(%h, %c, %d) {dilation=(1, 1), groups=1, padding=AFTER, stride=THEN}
  return %y
}"""


def _text(**parts: str) -> str:
    text = CONVOLUTIONS
    for name, part in parts.items():
        text = text.replace(name, part)
    return text


PAIRS = {
    "a kernel, then a point": _text(
        KERNEL="3,3", NEXT="1,1", INNER="5,5", OUTER="5,5", BIAS="%b", PAD="(1, 1)", STRIDE="(2, 2)", AFTER="(0, 0)", THEN="(1, 1)"
    ),
    "a kernel without bias, then a point": _text(
        KERNEL="3,3", NEXT="1,1", INNER="5,5", OUTER="5,5", BIAS="none", PAD="(1, 1)", STRIDE="(2, 2)", AFTER="(0, 0)", THEN="(1, 1)"
    ),
    "a point, then a kernel": _text(
        KERNEL="1,1", NEXT="3,3", INNER="9,9", OUTER="4,4", BIAS="%b", PAD="(0, 0)", STRIDE="(1, 1)", AFTER="(0, 0)", THEN="(2, 2)"
    ),
    "a point without bias, then a padded kernel": _text(
        KERNEL="1,1", NEXT="3,3", INNER="9,9", OUTER="5,5", BIAS="none", PAD="(0, 0)", STRIDE="(1, 1)", AFTER="(1, 1)", THEN="(2, 2)"
    ),
}


@pytest.mark.parametrize("text", PAIRS.values(), ids=PAIRS.keys())
def test_a_pointwise_convolution_goes_into_its_neighbour(text: str) -> None:
    graph = filled(text)
    check_pass(MergeLinearLayers(), graph)
    assert graph.node_count == 1


def test_a_bias_under_padding_and_two_kernels_stay() -> None:
    padded = PAIRS["a point without bias, then a padded kernel"].replace("%a, none", "%a, %b")
    (skipped,) = check_pass(MergeLinearLayers(), filled(padded), rewritten=0).skipped
    assert skipped[1] == "%y pads by (1, 1) what has a bias, needs no padding or no bias in %h"
    kernels = _text(
        KERNEL="3,3", NEXT="3,3", INNER="7,7", OUTER="5,5", BIAS="%b", PAD="(0, 0)", STRIDE="(1, 1)", AFTER="(0, 0)", THEN="(1, 1)"
    )
    (skipped,) = check_pass(MergeLinearLayers(), filled(kernels), rewritten=0).skipped
    assert skipped[1] == "kernels are (3, 3) and (3, 3), needs one of 1 with stride 1 and no padding"


def test_a_low_rank_factorisation_stays() -> None:
    graph = filled(BEFORE.replace("8,4]", "2,4]").replace("f32[8]", "f32[2]").replace("5,8]", "5,2]").replace("batch,8]", "batch,2]"))
    (skipped,) = check_pass(MergeLinearLayers(), graph, rewritten=0).skipped
    assert skipped == ("y", "one layer takes 40 FLOPs and 20 weights, needs less than the 36 and 18 of two")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("return %y", "return %y, %h", "%h has 2 readers, needs 1"),
        ("%c, %d)", "%z, %d)", "a weight or bias is computed at run time, needs parameters"),
    ],
)
def test_what_stays_says_why(old: str, new: str, reason: str) -> None:
    graph = filled(BEFORE.replace("batch,4])", "batch,4], %z: f32[5,8])").replace(old, new))
    assert check_pass(MergeLinearLayers(), graph, rewritten=0).skipped == (("y", reason),)


def test_a_shared_weight_stays_for_its_other_reader() -> None:
    graph = filled(BEFORE.replace("return %y", "%z: f32[batch,8] = linear(%x, %a, none)\n  return %y, %z"))
    check_pass(MergeLinearLayers(), graph)
    assert "a" in graph.states


def test_three_in_a_row() -> None:
    text = BEFORE.replace("return %y", "%z: f32[batch,2] = linear(%y, %e, none)\n  return %z").replace(
        "  %h:", "  param %e: f32[2,5]\n  %h:"
    )
    graph = filled(text)
    check_pass(MergeLinearLayers(), graph, rewritten=2)
    assert [node.op for node in graph.nodes] == ["linear"]
