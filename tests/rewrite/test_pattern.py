"""Rules from pattern functions: what they match, what they say when they do not, and what they leave behind."""

# Patterns are lambdas here, whose parameters have no annotations.
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import graphopt
from graphopt.errors import PassError
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, State
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.passes import NumericClass, RulePass, Stage
from graphopt.rewrite.pattern import Match, PatternRule, one_of, pattern_rule
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import NoMatch

CONV = "dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)"
NORM = 'eps=1e-05, mode="follow", momentum=0.1'
BEFORE = f"""graph net(%x: f32[1,2,4,4]) {{
  param %w: f32[3,2,1,1]
  param %gamma: f32[3]
  param %beta: f32[3]
  buffer %mean: f32[3]
  buffer %var: f32[3]
  %conv: f32[1,3,4,4] = conv2d(%x, %w, none) {{{CONV}}}
  %bn: f32[1,3,4,4] = batch_norm(%conv, %gamma, %beta, %mean, %var) {{{NORM}}}
  return %bn
}}
"""
AFTER_NODES = f"""  %bn: f32[1,3,4,4] = conv2d(%x, %weight, %bias) {{{CONV}}}
  return %bn
"""


# The whole rule, as a user writes it: pattern, check and replacement in twelve lines.
def pattern(op: Any, x: Any, w: Any, gamma: Any, beta: Any, mean: Any, var: Any, b: Any = None) -> Any:
    return op.batch_norm(op.conv2d(x, w, b), gamma, beta, mean, var, mode=one_of("follow", "eval"))


def check(m: Match) -> str | None:
    return m.not_states("w", "b", "gamma", "beta", "mean", "var")


def replacement(op: Any, m: Match) -> Any:
    eps = m.batch_norm.attrs["eps"]
    w = op.derive("weight", lambda w, g, v: w * (g / (v + eps).sqrt())[:, None, None, None], m.w, m.gamma, m.var)
    b = op.derive(
        "bias", lambda g, be, mu, v, b: ((0 if b is None else b) - mu) * g / (v + eps).sqrt() + be, m.gamma, m.beta, m.mean, m.var, m.b
    )
    return op.conv2d(m.x, w, b, **m.conv2d.attrs)


FOLD = pattern_rule(pattern, replacement, check=check, name="NormToConv")


@dataclass(frozen=True)
class Fold(RulePass):
    """Fold with the rule above."""

    name = "fold-by-pattern"
    numeric = NumericClass.ROUNDING
    stage = Stage.DEPLOY
    rules = (FOLD,)


def with_data(graph: Graph) -> Graph:
    """The graph with random numbers in its states, positive ones."""
    torch.manual_seed(0)
    rewriter = Rewriter(graph)
    for state in list(graph.states.values()):
        tensor = torch.rand(state.type.static_shape) + 0.5
        rewriter.update_state(State(state.value, state.kind, TensorData(tensor)))
    return graph


def reason(rule: PatternRule, text: str, node: str) -> str:
    found = rule.match(graphopt.parse(text).value(node).producer)  # pyright: ignore[reportArgumentType]  # the node is there
    assert isinstance(found, NoMatch)
    return found.reason


def test_a_batch_norm_is_folded_and_the_numbers_agree() -> None:
    result = PassManager([Fold()], strict=True).run(with_data(graphopt.parse(BEFORE)))
    assert str(result.graph).endswith(AFTER_NODES + "}\n")
    assert result.records[0].rewritten == 1
    assert result.records[0].error is not None
    assert result.records[0].error < 1e-12


def test_an_optional_operand_is_given_to_the_replacement() -> None:
    text = BEFORE.replace("  param %gamma", "  param %b: f32[3]\n  param %gamma").replace("%w, none", "%w, %b")
    result = PassManager([Fold()], strict=True).run(with_data(graphopt.parse(text)))
    assert result.graph.node_count == 1


def test_a_node_with_another_reader_is_kept_and_the_reason_has_the_partial_match() -> None:
    text = BEFORE.replace("  return %bn", "  %other: f32[1,3,4,4] = relu(%conv)\n  return %bn, %other")
    assert reason(FOLD, text, "bn") == "matched batch_norm <- conv2d, but conv2d's result has 2 users"


def test_reasons_name_producer_attribute_and_check() -> None:
    relu = BEFORE.replace(f"conv2d(%x, %w, none) {{{CONV}}}", "relu(%x)").replace("%x: f32[1,2,4,4]", "%x: f32[1,3,4,4]")
    assert reason(FOLD, relu, "bn") == "matched batch_norm, but operand 0 of batch_norm comes from relu, needs conv2d"
    train = BEFORE.replace('mode="follow"', 'mode="train"')
    assert reason(FOLD, train, "bn") == 'batch_norm\'s mode is "train", needs one of "follow", "eval"'
    computed = BEFORE.replace("  param %gamma: f32[3]\n", "").replace("%x: f32[1,2,4,4]", "%x: f32[1,2,4,4], %gamma: f32[3]")
    assert reason(FOLD, computed, "bn") == "'gamma' is %gamma, which is computed at run time, needs a parameter"
    assert reason(FOLD, BEFORE.replace("(%conv, %gamma,", "(%conv, none,"), "bn").endswith("operand 1 of batch_norm is missing")


def test_commutative_ops_match_in_both_orders_and_literals_compare() -> None:
    rule = pattern_rule(lambda op, x: op.mul(op.add(x, 3.0), 0.5), lambda op, m: m.x)
    for text in ("add(%x, 3.0)", "add(3.0, %x)", "add(%x, 3)"):
        graph = graphopt.parse(f"graph g(%x: f32[2]) {{ %a: f32[2] = {text} %m: f32[2] = mul(0.5, %a) return %m }}")
        assert isinstance(rule.match(graph.value("m").producer), Match)  # pyright: ignore[reportArgumentType]
    text = "graph g(%x: f32[2]) { %a: f32[2] = add(%x, 4.0) %m: f32[2] = mul(%a, 0.5) return %m }"
    assert reason(rule, text, "m") == "matched mul <- add, but operand 1 of add is 4.0, needs 3.0"


def test_a_variable_is_the_same_operand_everywhere() -> None:
    rule = pattern_rule(lambda op, x: op.mul(x, op.sigmoid(x)), lambda op, m: op.silu(m.x))
    silu = "graph g(%x: f32[2], %y: f32[2]) { %s: f32[2] = sigmoid(%x) %m: f32[2] = mul(%s, %x) return %m }"
    graph = graphopt.parse(silu)
    node = graph.value("m").producer
    assert node is not None
    site = rule.match(node)
    assert isinstance(site, Match)
    rule.rewrite(site, Rewriter(graph))
    assert str(graph) == "graph g(%x: f32[2], %y: f32[2]) {\n  %m: f32[2] = silu(%x)\n  return %m\n}\n"
    assert reason(rule, silu.replace("mul(%s, %x)", "mul(%s, %y)"), "m").startswith("matched mul")


def test_alternatives_several_ops_and_shared_nodes() -> None:
    rule = pattern_rule(
        lambda op, x: op.mul(op.any(op(("relu", "sigmoid"), x, name="inner", shared=True), op.tanh(x, name="inner")), 1.0),
        lambda op, m: m.inner.result,
    )
    for inner in ("relu", "sigmoid", "tanh"):
        graph = graphopt.parse(f"graph g(%x: f32[2]) {{ %a: f32[2] = {inner}(%x) %m: f32[2] = mul(%a, 1.0) return %m }}")
        assert isinstance(rule.match(graph.value("m").producer), Match)  # pyright: ignore[reportArgumentType]
    shared = "graph g(%x: f32[2]) {{ %a: f32[2] = {}(%x) %m: f32[2] = mul(%a, 1.0) return %m, %a }}"
    assert isinstance(rule.match(graphopt.parse(shared.format("relu")).value("m").producer), Match)  # pyright: ignore[reportArgumentType]
    assert reason(rule, shared.format("tanh"), "m") == "matched mul <- tanh, but tanh's result has 2 users"


def test_results_of_one_node_belong_together() -> None:
    def both(op: Any, x: Any) -> Any:
        parts = op.split(x, axis=0)
        return op.add(parts.result(0), parts.result(1))

    rule = pattern_rule(both, lambda op, m: op.sum(m.x, axes=(0,), keepdims=True))
    text = """graph g(%x: f32[2,3], %y: f32[2,3]) {
      %a: f32[1,3], %b: f32[1,3] = split(%x) {axis=0, sizes=(1, 1)}
      %c: f32[1,3], %d: f32[1,3] = split(%y) {axis=0, sizes=(1, 1)}
      %s: f32[1,3] = add(%a, %b)
      return %s, %c, %d }"""
    assert isinstance(rule.match(graphopt.parse(text).value("s").producer), Match)  # pyright: ignore[reportArgumentType]
    assert "another split" in reason(rule, text.replace("add(%a, %b)", "add(%a, %d)"), "s")


def test_mistakes_in_the_functions_are_told() -> None:
    with pytest.raises(PassError, match=r"returns Variable, needs a node such as op\.relu"):
        pattern_rule(lambda op, x: x, lambda op, m: m.x)
    node = graphopt.parse(BEFORE).value("bn").producer
    assert node is not None
    found = FOLD.match(node)
    assert isinstance(found, Match)
    with pytest.raises(AttributeError, match="the pattern has no 'weight', it has b, "):
        _ = found.weight
