from __future__ import annotations

import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.printer import show
from graphopt.passes.remove.fold_parameters import FoldParameters
from graphopt.pipeline.passes import Stage
from tests.support.folding import check_pass, filled

BEFORE = """graph g(%x: f32[2,3]) {
  param %v: f32[4,3]
  param %g: f32[4,1]
  param %frozen: f32[4] frozen
  buffer %b: f32[4]
  %w: f32[4,3] = weight_norm(%v, %g) {axis=0}
  %bias: f32[4] = add(%frozen, %b)
  %y: f32[2,4] = linear(%x, %w, %bias)
  return %y
}
"""
AFTER = """graph g(%x: f32[2,3]) {
  param %w_folded: f32[4,3]
  param %bias_folded: f32[4] frozen
  %y: f32[2,4] = linear(%x, %w_folded, %bias_folded)
  return %y
}
"""


def test_weight_norm_becomes_a_parameter() -> None:
    graph = filled(BEFORE)
    before = graph.clone()
    check_pass(FoldParameters(), graph, rewritten=2)
    assert show(graph) == AFTER
    x = torch.randn(2, 3)
    assert torch.equal(Interpreter(before).run(x)[0], Interpreter(graph).run(x)[0])
    assert FoldParameters.stage is Stage.DEPLOY


def test_a_large_result_is_stored_where_what_it_is_made_from_goes() -> None:
    text = """graph g(%x: f32[1,700]) {
  param %w: f32[700,600]
  %t: f32[600,700] = permute(%w) {axes=(1, 0)}
  %y: f32[1,600] = linear(%x, %t, none)
  return %y
}"""
    graph = filled(text)
    check_pass(FoldParameters(max_bytes=1000000), graph)
    assert list(graph.states) == ["t_folded"]
    shared = filled(text.replace("return %y", "%z: f32[1,600] = matmul(%x, %w)\n  return %y, %z"))
    (skipped,) = check_pass(FoldParameters(max_bytes=1000000), shared, rewritten=0).skipped
    assert skipped == ("t", "the result has 1680000 bytes, at most 1000000 are stored")


def test_nan_and_bfloat16() -> None:
    graph = filled(BEFORE.replace("f32", "bf16"))
    for state in graph.states.values():
        assert state.data is not None
        state.data.tensor().view(-1)[0] = float("nan")
    check_pass(FoldParameters(), graph, rewritten=2)
    assert graph.states["w_folded"].type.dtype.text == "bf16"
