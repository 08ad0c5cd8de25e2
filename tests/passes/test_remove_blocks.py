from __future__ import annotations

import pytest
import torch
import torchvision  # pyright: ignore[reportMissingTypeStubs]

import graphopt
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import PassError, PassOptionError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ops import verify
from graphopt.passes.shrink.blocks import find_residual_blocks, merge_by_module
from graphopt.passes.shrink.factor_linear import FactorLinear
from graphopt.passes.shrink.remove_blocks import RemoveBlocks
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.probes import random_inputs
from graphopt.rewrite.rewriter import Rewriter
from tests.support.folding import filled, set_state
from tests.support.pass_constructs import construct_graph
from tests.support.random_graphs import random_graph

CONV = "{dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}"
TWO_BLOCKS = f"""
graph g(%x: f32[2,3,4,4]) {{
  param %stem.weight: f32[4,3,3,3]
  param %one.weight: f32[4,4,3,3]
  buffer %one.calls: i64[]
  param %two.weight: f32[4,4,3,3]
  param %down.weight: f32[8,4,3,3]
  param %short.weight: f32[8,4,3,3]
  %s: f32[2,4,4,4] = conv2d(%x, %stem.weight, none) {CONV}
  %r: f32[2,4,4,4] = relu(%s)
  %c1: f32[2,4,4,4] = conv2d(%r, %one.weight, none) {CONV}
  %a1: f32[2,4,4,4] = add(%c1, %r)
  %r1: f32[2,4,4,4] = relu(%a1)
  %c2: f32[2,4,4,4] = conv2d(%r1, %two.weight, none) {CONV}
  %a2: f32[2,4,4,4] = add(%r1, %c2)
  %r2: f32[2,4,4,4] = relu(%a2)
  %d: f32[2,8,4,4] = conv2d(%r2, %down.weight, none) {CONV}
  %e: f32[2,8,4,4] = conv2d(%r2, %short.weight, none) {CONV}
  %a3: f32[2,8,4,4] = add(%d, %e)
  return %a3
}}
"""


def _context(graph: Graph, batches: int = 2) -> Context:
    return Context(calibration=Calibration([Batch(random_inputs(graph, seed=seed)) for seed in range(batches)]))


def _two_blocks(first: float, second: float) -> Graph:
    graph = filled(TWO_BLOCKS)
    for name, scale in (("one.weight", first), ("two.weight", second)):
        data = graph.states[name].data
        assert data is not None
        set_state(graph, name, data.tensor() * scale)
    return graph


@pytest.mark.parametrize("measure", ["output", "similarity"])
def test_the_block_that_matters_least_goes_with_its_parameters(measure: str) -> None:
    graph = _two_blocks(0.001, 1.0)
    outcome = RemoveBlocks(ratio=0.5, measure=measure).apply_with(Rewriter(graph), _context(graph))  # type: ignore[arg-type]
    assert outcome.rewritten == 1
    verify(graph)
    lines = TWO_BLOCKS.splitlines()
    gone = ("param %one.weight", "buffer %one.calls", "%c1:", "%a1:", "%r1:")
    kept = "\n".join(line for line in lines if not line.strip().startswith(gone)).replace("%r1", "%r")
    assert show(graph) == show(parse(kept))


def test_a_block_that_adds_nothing_goes_exactly() -> None:
    graph = _two_blocks(1.0, 0.0)
    before = graph.clone()
    outcome = RemoveBlocks(count=1).apply_with(Rewriter(graph), _context(graph))
    assert outcome.notes == ("a2 removed: error of the outputs 0",)
    inputs = random_inputs(before, seed=9)
    assert torch.equal(Interpreter(before).run(*inputs)[0], Interpreter(graph).run(*inputs)[0])


def test_more_than_there_are_is_said() -> None:
    graph = _two_blocks(1.0, 0.0)
    outcome = RemoveBlocks(count=5).apply_with(Rewriter(graph), _context(graph))
    assert outcome.rewritten == 2
    assert outcome.notes[2:] == ("count 5 asked for, and no more than 2 blocks could go",)


def test_random_numbers_are_the_same_with_and_without_a_block() -> None:
    text = """
    graph g(%x: f32[4,8]) {
      param %w: f32[8,8]
      %d: f32[4,8] = dropout(%x) {mode="train", p=0.5}
      %l: f32[4,8] = linear(%d, %w, none)
      %a: f32[4,8] = add(%d, %l)
      %y: f32[4,8] = tanh(%a)
      return %y
    }
    """
    graph = filled(text)
    set_state(graph, "w", torch.zeros(8, 8))
    context, before = _context(graph), torch.get_rng_state()
    for measure in ("output", "similarity"):
        outcome = RemoveBlocks(count=1, measure=measure).apply_with(Rewriter(graph.clone()), context)  # type: ignore[arg-type]
        assert float(outcome.notes[0].split()[-1]) < 1e-6
    assert torch.equal(torch.get_rng_state(), before)


def test_sizes_that_depend_on_data_are_those_of_each_run() -> None:
    """What is not zero is counted, once with the block and once without."""
    graph = filled("""
    graph g(%x: f32[4,8]) where k in [0, 9999] {
      param %w: f32[8,8]
      %r: f32[4,8] = relu(%x)
      %l: f32[4,8] = linear(%r, %w, none)
      %a: f32[4,8] = add(%r, %l)
      %i: i64[k,2] = aten.nonzero.default(%a) {self=$0}
      %f: i64[2*k] = reshape(%i) {shape=(2*k,)}
      %s: i64[] = sum(%f) {axes=(0,), keepdims=false}
      %y: f32[4,8] = add(%a, %s)
      return %y
    }
    """)
    before, context = graph.clone(), _context(graph)
    for pass_ in (RemoveBlocks(count=1, measure="similarity"), FactorLinear(ratio=0.5), RemoveBlocks(count=1)):
        copy = graph.clone()
        outcome = pass_.apply_with(Rewriter(copy), context)
        assert outcome.rewritten == 1
    assert context.calibration is not None
    inputs = [batch.inputs for batch in context.calibration]
    pairs = [(Interpreter(before).run(*x)[0], Interpreter(copy).run(*x)[0]) for x in inputs]
    wanted = sum(float((new - old).square().sum()) for old, new in pairs) / sum(float(old.square().sum()) for old, _ in pairs)
    assert float(outcome.notes[0].split()[-1]) == pytest.approx(wanted, rel=1e-2)


def test_the_measured_error_is_that_of_the_result() -> None:
    """After several removals, each measured with the others gone."""
    graph = _two_blocks(0.5, 0.1)
    before = graph.clone()
    context = _context(graph)
    outcome = RemoveBlocks(ratio=1.0).apply_with(Rewriter(graph), context)
    assert [note.split()[0] for note in outcome.notes] == ["a2", "a1"]
    squares = errors = 0.0
    assert context.calibration is not None
    for batch in context.calibration:
        old, new = Interpreter(before).run(*batch.inputs)[0].double(), Interpreter(graph).run(*batch.inputs)[0].double()
        squares, errors = squares + float(old.square().sum()), errors + float((old - new).square().sum())
    assert float(outcome.notes[1].split()[-1]) == pytest.approx(errors / squares, rel=1e-2)


def test_shortcuts_that_compute_say_why_they_stay() -> None:
    graph = _two_blocks(1.0, 1.0)
    blocks, skipped = find_residual_blocks(graph)
    assert [(block.entry.name, block.exit.name) for block in blocks] == [("r", "r1"), ("r1", "r2")]
    assert skipped == [("a3", "what is added is not the block's input %r2: f32[2,4,4,4]: the shortcut computes something")]


def test_post_norm_goes_with_its_block_and_the_last_norm_stays() -> None:
    text = """
    graph g(%x: f32[2,5,8], %mask: bool[2,1,5,5]) {
      param %w: f32[8]
      param %q: f32[8,8]
      param %f: f32[8,8]
      %n0: f32[2,5,8] = layer_norm(%x, %w, none) {eps=1e-05, normalized_shape=(8,)}
      %q0: f32[2,5,8] = linear(%n0, %q, none)
      %a0: f32[2,5,8] = add(%q0, %n0)
      %n1: f32[2,5,8] = layer_norm(%a0, %w, none) {eps=1e-05, normalized_shape=(8,)}
      %f0: f32[2,5,8] = linear(%n1, %f, none)
      %a1: f32[2,5,8] = add(%n1, %f0)
      %t: f32[2,5,8] = tanh(%a1)
      return %t
    }
    """
    blocks, _ = find_residual_blocks(parse(text))
    assert [(block.entry.name, block.exit.name) for block in blocks] == [("n0", "n1"), ("n1", "a1")]


def test_biases_masks_and_written_out_activations_are_no_blocks() -> None:
    text = """
    graph g(%x: f32[2,8], %mask: f32[1,8]) {
      param %b: f32[8]
      %e: f32[8] = exp(%b)
      %p: f32[2,8] = add(%x, %e)
      %q: f32[2,8] = add(%p, %mask)
      %r: f32[2,8] = add(%q, %q)
      %c: f32[2,8] = square(%r)
      %s: f32[2,8] = add(%r, %c)
      return %s
    }
    """
    assert find_residual_blocks(parse(text)) == ([], [])


def test_a_block_whose_inside_is_read_elsewhere_is_no_block() -> None:
    text = """
    graph g(%x: f32[2,8]) {
      param %w: f32[8,8]
      %l: f32[2,8] = linear(%x, %w, none)
      %a: f32[2,8] = add(%x, %l)
      %y: f32[2,8] = mul(%a, %l)
      return %y
    }
    """
    assert find_residual_blocks(parse(text)) == ([], [("a", "%l inside the block is read by %y outside")])


def test_masks_that_are_made_in_the_first_block_or_end_in_the_last_do_not_matter() -> None:
    text = """
    graph g(%x: f32[2,8], %m: f32[2,8]) {
      param %v: f32[8,8]
      param %w: f32[8,8]
      %s: f32[2,8] = tanh(%x)
      %mask: f32[2,8] = exp(%m)
      %l: f32[2,8] = linear(%s, %v, none)
      %p: f32[2,8] = mul(%l, %mask)
      %a: f32[2,8] = add(%s, %p)
      %k: f32[2,8] = linear(%a, %w, none)
      %q: f32[2,8] = mul(%k, %mask)
      %b: f32[2,8] = add(%a, %q)
      %y: f32[2,8] = tanh(%b)
      return %y
    }
    """
    graph = filled(text)
    blocks, skipped = find_residual_blocks(graph)
    assert [(block.entry.name, block.exit.name) for block in blocks] == [("s", "a"), ("a", "b")]
    assert skipped == []
    assert RemoveBlocks(ratio=1.0).apply_with(Rewriter(graph), _context(graph)).rewritten == 2
    verify(graph)
    assert [node.name for node in graph.nodes] == ["s", "y"]
    assert not graph.states


def test_blocks_inside_a_removed_block_go_with_it() -> None:
    text = """
    graph g(%x: f32[2,8]) {
      param %v: f32[8,8]
      param %w: f32[8,8]
      %s: f32[2,8] = tanh(%x)
      %d: f32[2,8] = linear(%s, %v, none)
      %e: f32[2,8] = linear(%d, %w, none)
      %i: f32[2,8] = add(%d, %e)
      %o: f32[2,8] = add(%s, %i)
      %y: f32[2,8] = exp(%o)
      return %y
    }
    """
    graph = filled(text)
    assert [block.name for block in find_residual_blocks(graph)[0]] == ["i", "o"]
    outcome = RemoveBlocks(ratio=1.0).apply_with(Rewriter(graph), _context(graph))
    verify(graph)
    assert outcome.rewritten in (1, 2)
    assert [node.name for node in graph.nodes] == ["s", "y"]


def test_without_data_the_error_says_what_to_pass() -> None:
    with pytest.raises(PassError, match="remove-blocks measures each block on calibration data, and there is none"):
        RemoveBlocks().run(_two_blocks(1.0, 1.0))


def test_bad_options() -> None:
    with pytest.raises(PassOptionError, match=r"option .ratio. of remove-blocks is 1\.5, needs a number >= 0\.0 and <= 1\.0"):
        RemoveBlocks(ratio=1.5)
    graph = _two_blocks(1.0, 1.0)
    with pytest.raises(PassOptionError, match=r"'layer9\.\*' in exclude is the name of nothing"):
        RemoveBlocks(exclude=("layer9.*",)).apply_with(Rewriter(graph), _context(graph))


def test_too_small_a_ratio_and_excluded_blocks_are_reported() -> None:
    graph = _two_blocks(1.0, 1.0)
    outcome = RemoveBlocks(ratio=0.4, exclude=("a1",)).apply_with(Rewriter(graph), _context(graph))
    assert outcome.rewritten == 0
    assert ("a1", "excluded by 'a1'") in outcome.skipped
    assert ("g", "ratio 0.4 of 1 block is less than one block") in outcome.skipped


def test_nothing_to_remove_needs_no_data() -> None:
    assert RemoveBlocks().run(parse("graph g(%x: f32[2]) { %y: f32[2] = relu(%x) return %y }")).rewritten == 0


def test_resnet50_through_the_pass_manager() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    x = torch.randn(2, 3, 32, 32)
    graph = graphopt.capture(model, (x,))
    calibration = Calibration([Batch((x,))])
    result = PassManager(RemoveBlocks(count=2), context=Context(calibration=calibration), strict=True).run(graph)
    assert result.records[0].rewritten == 2
    assert len([name for name in result.graph.states if name.endswith("conv1.weight")]) == 15
    module = result.graph.to_module()
    module.train()
    module(x).sum().backward()
    left = set(module.state_dict())
    assert left < set(model.state_dict())
    assert sum("num_batches_tracked" in name for name in left) == 53 - 6


def test_vit_layers_are_attention_and_mlp_together() -> None:
    model = torchvision.models.vit_b_16(weights=None, image_size=32).eval()
    graph = graphopt.capture(model, (torch.randn(1, 3, 32, 32),))
    blocks, _ = find_residual_blocks(graph)
    assert len(blocks) == 24
    layers = merge_by_module(blocks)
    assert [layer.name for layer in layers] == [f"encoder.layers.encoder_layer_{number}" for number in range(12)]


def test_a_module_that_is_called_twice_is_two_layers() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.mlp = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.mix(x)
            return x + self.mlp(x)

    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = Layer(), torch.nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(self.layer(x)))

    graph = graphopt.capture(Shared().eval(), (torch.randn(2, 8),))
    layers = RemoveBlocks(unit="layer").find(graph)[0]
    assert len(layers) == 2
    assert len({layer.name for layer in layers}) == 2
    states = set(graph.states)
    outcome = RemoveBlocks(unit="layer", count=1).apply_with(Rewriter(graph), _context(graph))
    assert outcome.rewritten == 1
    assert set(graph.states) == states  # the other call still reads them


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_stay_valid(seed: int) -> None:
    for graph in (construct_graph(seed), random_graph(seed, nodes=30, symbolic=seed % 2 == 0, with_data=True)):
        context = _context(graph, 1)
        for pass_ in (RemoveBlocks(ratio=1.0, measure="similarity"), RemoveBlocks(ratio=0.5)):
            copy = graph.clone()
            outcome = pass_.apply_with(Rewriter(copy), context)
            verify(copy)
            assert [value.type for value in copy.inputs] == [value.type for value in graph.inputs]
            assert len(outcome.notes) == outcome.rewritten
            Interpreter(copy).run(*random_inputs(graph, seed=5))
