from __future__ import annotations

import torch

from graphopt.ir.parser import parse
from graphopt.ir.types import DType, TensorType
from graphopt.passes.remove.remove_dead_states import RemoveDeadStates
from graphopt.rewrite.rewriter import Rewriter
from tests.support.folding import filled

TEXT = """
graph g(%x: f32[2]) {
  param %head.weight: f32[3]
  buffer %steps: i64[]
  constant %mask: f32[2]
  constant %used: f32[2]
  %y: f32[2] = add(%x, %used)
  return %y
}
"""


def test_unread_constant_goes_and_the_state_dict_stays() -> None:
    graph = parse(TEXT)
    result = RemoveDeadStates().run(graph)
    assert list(graph.states) == ["head.weight", "steps", "used"]
    assert result.rewritten == 1
    assert result.skipped[0] == ("head.weight", "unread param of the model's state_dict, goes only with model_states=true")
    assert RemoveDeadStates().run(graph).rewritten == 0


def test_option_removes_parameters_too() -> None:
    graph = parse(TEXT)
    assert RemoveDeadStates(model_states=True).run(graph).rewritten == 3
    assert list(graph.states) == ["used"]
    assert repr(RemoveDeadStates(model_states=True)) == "remove-dead-states{model_states=true}"


def test_unread_derived_parameter_goes() -> None:
    graph = filled(TEXT)
    Rewriter(graph).derive("folded", torch.neg, [graph.value("head.weight")], TensorType(DType.f32, (3,)))
    assert "folded" in graph.states
    RemoveDeadStates().run(graph)
    assert "folded" not in graph.states
