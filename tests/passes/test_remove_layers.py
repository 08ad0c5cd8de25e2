from __future__ import annotations

from typing import Literal

import pytest
import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import PassError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ops import verify
from graphopt.passes.shrink.blocks import find_layers
from graphopt.passes.shrink.remove_layers import RemoveLayers
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.probes import random_inputs
from graphopt.rewrite.rewriter import Rewriter
from tests.support.folding import filled, set_state
from tests.support.pass_constructs import construct_graph

CONV = "{dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}"
NORM = '{eps=1e-05, mode="follow", momentum=0.1}'
PLAIN = f"""
graph g(%x: f32[2,3,4,4]) {{
  param %first.weight: f32[4,3,3,3]
  param %middle.weight: f32[4,4,3,3]
  param %norm.weight: f32[4]
  param %norm.bias: f32[4]
  buffer %norm.mean: f32[4]
  buffer %norm.var: f32[4]
  param %last.weight: f32[4,4,3,3]
  %c: f32[2,4,4,4] = conv2d(%x, %first.weight, none) {CONV}
  %r: f32[2,4,4,4] = relu(%c)
  %m: f32[2,4,4,4] = conv2d(%r, %middle.weight, none) {CONV}
  %n: f32[2,4,4,4] = batch_norm(%m, %norm.weight, %norm.bias, %norm.mean, %norm.var) {NORM}
  %d: f32[2,4,4,4] = dropout(%n) {{mode="follow", p=0.5}}
  %y: f32[2,4,4,4] = conv2d(%d, %last.weight, none) {CONV}
  return %y
}}
"""


def _context(graph: Graph, batches: int = 2) -> Context:
    return Context(calibration=Calibration([Batch(random_inputs(graph, seed=seed)) for seed in range(batches)]))


def test_a_layer_goes_with_norm_and_dropout() -> None:
    graph = filled(PLAIN)
    result = PassManager(RemoveLayers(ratio=1.0), context=_context(graph), strict=True).run(graph)
    assert result.records[0].rewritten == 1
    assert show(result.graph) == show(
        parse(
            f"""
            graph g(%x: f32[2,3,4,4]) {{
              param %first.weight: f32[4,3,3,3]
              param %last.weight: f32[4,4,3,3]
              %c: f32[2,4,4,4] = conv2d(%x, %first.weight, none) {CONV}
              %r: f32[2,4,4,4] = relu(%c)
              %y: f32[2,4,4,4] = conv2d(%r, %last.weight, none) {CONV}
              return %y
            }}
            """
        )
    )


def test_layers_that_stay_say_why() -> None:
    blocks, skipped = find_layers(filled(PLAIN))
    assert [(block.name, block.entry.name, block.exit.name) for block in blocks] == [("middle", "r", "d")]
    assert skipped == [
        ("first", "turns f32[2,3,4,4] into f32[2,4,4,4], needs the same type"),
        ("last", "its result is an output of the network"),
    ]


def test_a_layer_whose_input_is_read_later_stays() -> None:
    text = """
    graph g(%x: f32[2,8]) {
      param %a.weight: f32[8,8]
      %l: f32[2,8] = linear(%x, %a.weight, none)
      %y: f32[2,8] = add(%x, %l)
      return %y
    }
    """
    assert find_layers(parse(text)) == ([], [("a", "its input %x or something beside it is read further on")])


def test_without_data_the_error_says_what_to_pass() -> None:
    with pytest.raises(PassError, match="remove-layers measures each layer on calibration data, and there is none"):
        RemoveLayers().run(filled(PLAIN))


def test_an_identity_goes_exactly() -> None:
    graph = filled(
        f"""
        graph g(%x: f32[2,4,4,4]) {{
          param %one.weight: f32[4,4,3,3]
          param %two.weight: f32[4,4,3,3]
          param %head.weight: f32[2,4,3,3]
          %a: f32[2,4,4,4] = conv2d(%x, %one.weight, none) {CONV}
          %b: f32[2,4,4,4] = conv2d(%a, %two.weight, none) {CONV}
          %y: f32[2,2,4,4] = conv2d(%b, %head.weight, none) {CONV}
          return %y
        }}
        """
    )
    identity = torch.zeros(4, 4, 3, 3)
    identity[range(4), range(4), 1, 1] = 1
    set_state(graph, "two.weight", identity)
    before = graph.clone()
    outcome = RemoveLayers(count=1).apply_with(Rewriter(graph), _context(graph))
    assert outcome.notes[0].startswith("two removed")
    verify(graph)
    inputs = random_inputs(before, seed=7)
    old, new = (Interpreter(item, precise=True).run(*inputs)[0] for item in (before, graph))
    assert float((old - new).abs().max()) < 1e-12


@pytest.mark.parametrize("measure", ["output", "similarity"])
def test_an_input_without_a_batch_is_one_sample(measure: Literal["output", "similarity"]) -> None:
    text = """graph g(%x: f32[4]) {
  param %one: f32[4,4]
  param %two: f32[3,4]
  %a: f32[4] = linear(%x, %one, none)
  %y: f32[3] = linear(%a, %two, none)
  return %y
}"""
    graph = filled(text)
    assert RemoveLayers(count=1, measure=measure).apply_with(Rewriter(graph), _context(graph)).rewritten == 1


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_stay_valid(seed: int) -> None:
    graph = construct_graph(seed)
    outcome = RemoveLayers(ratio=1.0, measure="similarity").apply_with(Rewriter(graph), _context(graph, 1))
    verify(graph)
    assert len(outcome.notes) == outcome.rewritten
    Interpreter(graph).run(*random_inputs(graph, seed=5))
