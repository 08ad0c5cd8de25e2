"""The editor of passes: names, use lists, records of what stands for what; and the driver that applies rules."""

from __future__ import annotations

import pytest
import torch

import graphopt
from graphopt.errors import IRError, PassError
from graphopt.ir.graph import Graph, Node
from graphopt.ir.types import DType, TensorType
from graphopt.ir.verifier import verify_structure
from graphopt.rewrite.derived import DerivedData
from graphopt.rewrite.driver import drive
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule
from tests.support.folding import filled

TEXT = """graph g(%x: f32[2,3]) {
  param %w: f32[3]
  %a: f32[2,3] = mul(%x, %w)
  %b: f32[2,3] = relu(%a)
  %c: f32[2,3] = exp(%b)
  return %c, %b
}
"""


def node(graph: Graph, name: str) -> Node:
    found = graph.value(name).producer
    assert found is not None
    return found


def test_a_replacement_takes_the_name_of_what_it_replaces_unless_it_has_one() -> None:
    graph = graphopt.parse(TEXT)
    rewriter = Rewriter(graph)
    old = graph.value("b")
    made = rewriter.emit("gelu", graph.value("a"), before=node(graph, "b"), approximate="none")
    assert made.name == "gelu"
    rewriter.replace(node(graph, "b"), made)
    assert made.name == "b"
    assert rewriter.replacements == [(old, made)]
    assert [created.name for created in rewriter.created] == ["b"]
    named = rewriter.create("neg", (made,), before=node(graph, "c"), name="mine")
    rewriter.replace(node(graph, "c"), named.result)
    assert [str(output) for output in graph.outputs] == [str(named.result), str(made)]
    assert named.result.name == "mine"
    verify_structure(graph)


def test_edits_that_do_not_fit_are_refused_and_leave_the_graph_valid() -> None:
    graph = graphopt.parse(TEXT)
    rewriter = Rewriter(graph)
    with pytest.raises(IRError, match=r"can't replace %b: f32\[2,3\] by %w: f32\[3\]: the types differ"):
        rewriter.replace(node(graph, "b"), graph.value("w"))
    with pytest.raises(IRError, match="has 1 results, got 2 replacements"):
        rewriter.replace(node(graph, "b"), graph.value("a"), graph.value("a"))
    with pytest.raises(IRError, match="can't erase %a: %a is still used by %b"):
        rewriter.erase(node(graph, "a"))
    with pytest.raises(IRError, match="%a is computed at run time, so nothing can be derived"):
        rewriter.derive("d", lambda a: a, [graph.value("a")], graph.value("a").type)  # pyright: ignore[reportUnknownLambdaType]
    verify_structure(graph)
    assert str(graph) == TEXT


def test_unused_nodes_go_with_the_producers_that_only_they_read() -> None:
    graph = graphopt.parse(TEXT)
    rewriter = Rewriter(graph)
    rewriter.set_outputs((graph.value("a"),))
    assert rewriter.erase_unused(node(graph, "c"), None) == 2
    assert [n.name for n in graph.nodes] == ["a"]


def test_the_hook_runs_before_every_edit() -> None:
    graph = graphopt.parse(TEXT)
    seen: list[str] = []
    rewriter = Rewriter(graph, before_edit=lambda: seen.append(str(graph)))
    rewriter.set_operand(node(graph, "c"), 0, graph.value("a"))
    rewriter.rename(graph.value("c"), "d")
    assert len(seen) == 2
    assert seen[0] == TEXT
    assert rewriter.replacements == [(graph.value("d"), graph.value("d"))]


def test_only_the_chosen_uses_move() -> None:
    graph = graphopt.parse(TEXT)
    moved = Rewriter(graph).replace_value(graph.value("b"), graph.value("a"), where=lambda use: use.node.is_return)
    assert moved == 1
    assert graph.outputs[1] is graph.value("a")
    assert graph.value("b").use_count == 1


def test_derived_numbers_are_late_precise_and_frozen_once() -> None:
    graph = filled(TEXT)
    calls: list[torch.dtype] = []

    def thirds(w: torch.Tensor) -> torch.Tensor:
        calls.append(w.dtype)
        return w / 3

    rewriter = Rewriter(graph)
    first = rewriter.derive("third", thirds, [graph.value("w")], graph.value("w").type)
    second = rewriter.derive("ninth", thirds, [first], first.type)
    assert calls == []
    state = graph.states["ninth"]
    assert isinstance(state.data, DerivedData)
    source = graph.states["w"].data
    assert source is not None
    assert torch.equal(state.data.precise(), source.precise() / 3 / 3)
    assert set(calls) == {torch.float64}
    state.data.freeze()
    count = len(calls)
    assert torch.equal(state.data.tensor(), (source.precise() / 3 / 3).float())
    assert torch.equal(state.data.precise(), state.data.tensor().double())
    assert len(calls) == count
    assert second.name == "ninth"
    exact = rewriter.derive("exact", thirds, [graph.value("w")], TensorType(DType.f32, (3,)), exact=True)
    data = graph.states[exact.name].data
    assert data is not None
    assert torch.equal(data.tensor(), source.tensor() / 3)


class NegToRelu(Rule[Node]):
    """Turns neg into relu; RELU_TO_NEG turns it back."""

    ops = frozenset({"neg"})
    result = "relu"

    def match(self, node: Node) -> Node | NoMatch:
        return node if node.op in self.ops else UNRELATED

    def rewrite(self, site: Node, rewriter: Rewriter) -> None:
        rewriter.replace(site, rewriter.emit(self.result, site.operands[0], before=site))


class ReluToNeg(NegToRelu):
    """The other way round."""

    ops = frozenset({"relu"})
    result = "neg"


def test_rules_that_undo_each_other_are_stopped_and_named() -> None:
    graph = graphopt.parse("graph g(%x: f32[2]) { %a: f32[2] = neg(%x) return %a }")
    with pytest.raises(PassError, match=r"rule \w+ fired \d+ times on 1 nodes and does not come to an end"):
        drive(Rewriter(graph), [NegToRelu(), ReluToNeg()])
    verify_structure(graph)


def test_reasons_are_kept_once_per_node_and_unrelated_ones_are_not() -> None:
    class Reason(Rule[Node]):
        """Never applies."""

        ops = frozenset({"relu", "exp"})

        def match(self, node: Node) -> Node | NoMatch:
            return NoMatch("never") if node.op == "relu" else UNRELATED

        def rewrite(self, site: Node, rewriter: Rewriter) -> None:
            raise AssertionError("nothing matches")

    tally = drive(Rewriter(graphopt.parse(TEXT)), [Reason(), Reason()])
    assert tally.rewritten == 0
    assert tally.skipped == (("b", "never"),)
