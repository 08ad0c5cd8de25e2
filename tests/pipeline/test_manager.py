"""The pass manager on right passes: records, groups, orders, levels of checking, memory, and what it never touches."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

import graphopt
from graphopt.errors import BrokenPromiseError, PipelineOrderError, UsageError, VerifyError
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.parser import parse as parse_only
from graphopt.ops import verify
from graphopt.passes.remove.fold_batch_norm import FoldBatchNorm
from graphopt.passes.remove.merge_common_subexpressions import MergeCommonSubexpressions
from graphopt.passes.remove.remove_dead_nodes import RemoveDeadNodes
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.passes import NumericClass, Outcome, Pass, RulePass, Stage
from graphopt.pipeline.registry import Repeat
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import NoMatch, Rule
from tests.support.folding import filled

CHAIN = """graph chain(%x: f32[4]) {
  %a: f32[4] = relu(%x)
  %b: f32[4] = relu(%a)
  %c: f32[4] = relu(%b)
  %dead: f32[4] = exp(%x)
  return %c
}
"""
CONV = "{dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}"
NORM = '{eps=1e-05, mode="follow", momentum=0.1}'
LARGE = f"""graph large(%x: f32[1,16,40,40]) {{
  param %w: f32[32,16,3,3]
  param %gamma: f32[32]
  param %beta: f32[32]
  buffer %mean: f32[32]
  buffer %var: f32[32]
  %conv: f32[1,32,40,40] = conv2d(%x, %w, none) {CONV}
  %bn: f32[1,32,40,40] = batch_norm(%conv, %gamma, %beta, %mean, %var) {NORM}
  %out: f32[1,32,40,40] = relu(%bn)
  return %out
}}
"""


class DoubleReluToOne(Rule[Node]):
    """relu(relu(x)) -> relu(x), one per visit."""

    ops = frozenset({"relu"})

    def match(self, node: Node) -> Node | NoMatch:
        producer = node.value(0).producer
        if producer is None or producer.op != "relu":
            return NoMatch(f"reads {producer.op if producer else 'an input'}, needs relu")
        return node

    def rewrite(self, site: Node, rewriter: Rewriter) -> None:
        rewriter.replace(site, site.operands[0])


@dataclass(frozen=True)
class MergeRelus(RulePass):
    """Remove repeated relus."""

    name = "merge-relus"
    numeric = NumericClass.EXACT
    rules = (DoubleReluToOne(),)


@dataclass(frozen=True)
class Scale(Pass):
    """A lossy pass: scales the output by `factor`."""

    name = "scale"
    numeric = NumericClass.LOSSY
    factor: float = 1.5

    def apply(self, rewriter: Rewriter) -> Outcome:
        value = rewriter.graph.outputs[0]
        assert isinstance(value, Value)
        scaled = rewriter.emit("mul", value, self.factor, before=rewriter.graph.return_node)
        return Outcome(rewriter.replace_value(value, scaled, where=lambda use: use.node.is_return))


@dataclass(frozen=True)
class SwapNumbers(Pass):
    """Changes a parameter behind the back of the region check."""

    name = "swap-numbers"
    numeric = NumericClass.ROUNDING

    def apply(self, rewriter: Rewriter) -> Outcome:
        state = next(iter(rewriter.graph.states.values()))
        assert state.data is not None
        rewriter.update_state(replace(state, data=TensorData(state.data.tensor() + 1.0)))
        return Outcome(1)


def test_records_say_what_was_done_and_why_not() -> None:
    graph = filled(CHAIN)
    text = str(graph)
    result = PassManager([MergeRelus(), RemoveDeadNodes()], keep_texts=True).run(graph)
    assert str(graph) == text
    assert str(result.graph) == "graph chain(%x: f32[4]) {\n  %a: f32[4] = relu(%x)\n  return %a\n}\n"
    first, second = result.records
    assert (first.status, first.rewritten, first.nodes_before, first.nodes_after) == ("applied", 2, 4, 2)
    assert first.declined == "declined 1: reads an input, needs relu"
    assert first.error == 0.0
    assert "%dead" in str(first.text)
    assert "%dead" not in str(second.text)
    assert json.loads(json.dumps(result.to_json()))["passes"][0]["declined"] == [{"reason": "reads an input, needs relu", "count": 1}]
    lines = str(result).splitlines()
    assert lines[0].split() == ["pass", "class", "status", "fired", "nodes", "ms", "check", "ms", "error"]
    assert "merge-relus: declined 1: reads an input, needs relu" in lines
    assert "nodes: 4 -> 1" in lines


def test_a_pipeline_that_changes_nothing_compares_nothing() -> None:
    result = PassManager([MergeRelus()]).run(filled("graph g(%x: f32[2]) { %a: f32[2] = relu(%x) return %a }"))
    assert result.checked == "nothing changed, so nothing was compared"
    assert result.records[0].status == "unchanged"


def test_groups_repeat_until_nothing_fires_and_stop_after_their_rounds() -> None:
    result = PassManager([[MergeRelus(), RemoveDeadNodes()]]).run(filled(CHAIN))
    assert [(record.name, record.round, record.status) for record in result.records] == [
        ("merge-relus", 1, "applied"),
        ("remove-dead-nodes", 1, "applied"),
        ("merge-relus", 2, "unchanged"),
        ("remove-dead-nodes", 2, "unchanged"),
    ]
    endless = PassManager(Repeat((Scale(),), rounds=3)).run(filled(CHAIN))
    assert len(endless.records) == 3
    assert "still fired in round 3" in endless.notes[0]


@pytest.mark.parametrize("check", ["default", "full", "off"])
def test_folding_a_large_convolution_is_checked_at_every_level(check: str) -> None:
    graph = filled(LARGE)
    result = PassManager([FoldBatchNorm()], check=check).run(graph)  # pyright: ignore[reportArgumentType]
    assert result.records[0].status == "applied"
    assert result.graph.node_count == 2
    if check == "off":
        assert result.final_error is None
        assert result.checked == "not compared (checks are off)"
    else:
        assert result.final_error is not None
        assert result.final_error < 1e-12
        assert result.final_error_declared is not None
        assert result.records[0].error is not None
        assert 0.0 < result.records[0].error < 1e-12


def _twice(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 2


@dataclass(frozen=True)
class FoldWrongly(FoldBatchNorm):
    """Folds, and then doubles the folded weight of a convolution that is too expensive to run after the pass."""

    name = "fold-wrongly"
    numeric = NumericClass.ROUNDING
    stage = Stage.DEPLOY

    def apply(self, rewriter: Rewriter) -> Outcome:
        outcome = super().apply(rewriter)
        node = next(node for node in rewriter.graph.nodes if node.op == "conv2d")
        weight = node.value(1)
        twice = rewriter.derive("twice", _twice, [weight], weight.type)
        made = rewriter.create("conv2d", (node.operands[0], twice, node.operands[2]), node.attrs, before=node)
        rewriter.replace(node, made.result)
        return outcome


def test_a_comparison_that_was_put_off_still_rolls_its_pass_back() -> None:
    graph = filled(LARGE)
    result = PassManager([FoldWrongly(), RemoveDeadNodes()]).run(graph)
    record = result.records[0]
    assert record.status == "rolled back"
    assert record.broken is not None
    assert record.broken.value == "%bn"
    assert "conv2d" in record.broken.node
    assert "ran again with every region compared at once" in result.notes[-1]
    assert result.graph.node_count == 3
    with pytest.raises(BrokenPromiseError, match="fold-wrongly"):
        PassManager([FoldWrongly()], strict=True).run(graph)


def test_a_record_over_its_limit_leaves_the_comparison_to_the_end_and_says_so() -> None:
    result = PassManager([FoldBatchNorm()], record_bytes=1000).run(filled(LARGE))
    assert result.records[0].status == "applied"
    assert result.records[0].error is None
    assert result.final_error is not None
    assert "the whole graph is at the end" in " ".join(result.notes)
    graph = filled(LARGE)
    broken = PassManager([FoldWrongly()], record_bytes=1000).run(graph)
    assert str(broken.graph) == str(graph)
    assert broken.broken is not None
    assert broken.broken.pass_name == "fold-wrongly"


def test_what_only_the_final_check_sees_gives_the_original_back_and_names_the_pass() -> None:
    graph = filled(LARGE)
    result = PassManager([SwapNumbers(), FoldBatchNorm()]).run(graph)
    assert str(result.graph) == str(graph)
    assert result.broken is not None
    assert result.broken.pass_name == "swap-numbers"
    assert result.broken.value == "%conv"
    assert "the original graph is returned:" in str(result)
    with pytest.raises(BrokenPromiseError, match="swap-numbers broke its promise"):
        PassManager([SwapNumbers()], strict=True).run(graph)


def test_lossy_passes_are_measured_and_what_follows_is_compared_with_them() -> None:
    result = PassManager([Scale(factor=1.25), MergeRelus(), RemoveDeadNodes()]).run(filled(CHAIN))
    assert [record.status for record in result.records] == ["applied"] * 3
    assert result.records[0].error is not None
    assert result.records[0].error > 0
    assert result.final_error == 0.0


def test_results_are_frozen_and_the_original_is_not_written_to() -> None:
    graph = filled(LARGE)
    before = {name: state.data.tensor().clone() for name, state in graph.states.items() if state.data is not None}
    result = PassManager([FoldBatchNorm()]).run(graph)
    for name, tensor in before.items():
        state = graph.states[name]
        assert state.data is not None
        assert torch.equal(state.data.tensor(), tensor)
    for state in result.graph.states.values():
        assert state.data is not None
        if state.data.tensor().is_floating_point():
            assert torch.equal(state.data.precise(), state.data.tensor().double())


def test_twins_are_merged_after_a_rounding_pass_changed_what_they_read() -> None:
    text = LARGE.replace("  return %out", "  %twin: f32[1,32,40,40] = relu(%bn)\n  return %out, %twin")
    result = PassManager([FoldBatchNorm(), MergeCommonSubexpressions()], strict=True).run(filled(text))
    assert [record.status for record in result.records] == ["applied", "applied"]
    assert result.graph.node_count == 2


def test_a_graph_without_numbers_is_verified_and_the_result_says_so() -> None:
    result = PassManager([FoldBatchNorm()]).run(graphopt.parse(LARGE))
    assert result.records[0].status == "applied"
    assert result.checked == "not compared: %w and 4 more states have no data"
    verify(result.graph)


def test_given_probe_inputs_are_used() -> None:
    graph = filled("graph g(%i: i64[3]) { param %t: f32[5,2] %e: f32[3,2] = embedding(%t, %i) {padding_idx=none} return %e }")
    result = PassManager([Scale()], probe_inputs=(torch.tensor([4, 0, 3]),), probes=2).run(graph)
    assert result.records[0].status == "applied"
    bad = PassManager([Scale()], probe_inputs=(torch.tensor([9, 0, 3]),)).run(graph)
    assert bad.checked.startswith("not compared: the original does not run on the probe inputs")


@dataclass(frozen=True)
class NeedsNorms(Pass):
    """Works on batch norms."""

    name = "needs-norms"
    numeric = NumericClass.EXACT
    needs: ClassVar[frozenset[str]] = frozenset({"batch_norm"})

    def apply(self, rewriter: Rewriter) -> Outcome:
        return Outcome(0)


def test_orders_that_can_not_work_are_refused_before_they_run() -> None:
    PassManager([NeedsNorms(), FoldBatchNorm()])
    with pytest.raises(PipelineOrderError, match="needs-norms works on batch_norm, which fold-batch-norm has removed before it"):
        PassManager([FoldBatchNorm(), NeedsNorms()])
    with pytest.raises(PipelineOrderError, match="fold-batch-norm is for deployment only and the result has to stay trainable"):
        PassManager([FoldBatchNorm()], stage=Stage.TRAINING_SAFE)


def test_bad_arguments_and_invalid_graphs_are_told() -> None:
    with pytest.raises(UsageError, match="check is 'some', needs one of default, full, off"):
        PassManager([], check="some")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="probes is 0, needs at least 1"):
        PassManager([], probes=0)
    wrong: Graph = parse_only("graph g(%x: f32[2]) { %a: f32[3] = relu(%x) return %a }")
    with pytest.raises(VerifyError, match=r"f32\[3\]"):
        PassManager([]).run(wrong)
