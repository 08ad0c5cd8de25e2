from __future__ import annotations

import torch

from graphopt.ir.printer import show
from graphopt.passes.remove.merge_duplicate_parameters import MergeDuplicateParameters
from tests.support.folding import check_pass, filled, set_state

BEFORE = """graph g(%x: f32[2,4], %y: f32[2,4]) {
  param %a.weight: f32[4,4]
  param %b.weight: f32[4,4] tied ("c.weight",)
  param %d.weight: f16[4,4]
  param %unused: f32[4,4]
  %a: f32[2,4] = linear(%x, %a.weight, none)
  %b: f32[2,4] = linear(%y, %b.weight, none)
  return %a, %b
}
"""
AFTER = """graph g(%x: f32[2,4], %y: f32[2,4]) {
  param %a.weight: f32[4,4] tied ("b.weight", "c.weight")
  param %d.weight: f16[4,4]
  param %unused: f32[4,4]
  %a: f32[2,4] = linear(%x, %a.weight, none)
  %b: f32[2,4] = linear(%y, %a.weight, none)
  return %a, %b
}
"""


def test_equal_parameters_are_tied() -> None:
    graph = filled(BEFORE)
    for name, state in graph.states.items():
        set_state(graph, name, torch.ones(4, 4, dtype=getattr(torch, state.type.dtype.torch_name)))
    check_pass(MergeDuplicateParameters(), graph)
    assert show(graph) == AFTER


def test_other_strides_are_no_other_bytes() -> None:
    graph = filled(BEFORE)
    weight = torch.randn(4, 4)
    set_state(graph, "a.weight", weight)
    set_state(graph, "b.weight", weight.t().contiguous().t())
    check_pass(MergeDuplicateParameters(), graph)


def test_zero_size_and_scalar_states() -> None:
    graph = filled("""graph g(%x: f32[2,0]) {
  param %a: f32[0]
  param %b: f32[0]
  param %c: bf16[]
  param %d: bf16[]
  %y: f32[2,0] = add(%x, %a)
  %z: f32[2,0] = add(%y, %b)
  %u: f32[2,0] = mul(%z, %c)
  %v: f32[2,0] = mul(%u, %d)
  return %v
}""")
    set_state(graph, "c", torch.tensor(2.0, dtype=torch.bfloat16))
    set_state(graph, "d", torch.tensor(2.0, dtype=torch.bfloat16))
    check_pass(MergeDuplicateParameters(), graph, rewritten=2)
