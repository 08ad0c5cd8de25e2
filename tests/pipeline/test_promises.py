"""What a lossy pass that is training-safe may do to parameters, and what it may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from graphopt.pipeline.passes import NumericClass, Outcome, Pass, Stage
from graphopt.pipeline.promises import broken_promise
from graphopt.rewrite.rewriter import Rewriter
from tests.support.cutting import cut_group, group_of
from tests.support.folding import filled

CONV = "{dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}"
NETWORK = f"""graph net(%x: f32[2,3,4,4]) {{
  param %first: f32[8,3,1,1]
  param %scale: f32[8]
  buffer %mean: f32[8]
  buffer %var: f32[8]
  param %tied: f32[8,8,1,1] tied ("alias",)
  param %last: f32[5,8,1,1]
  %a: f32[2,8,4,4] = conv2d(%x, %first, none) {CONV}
  %n: f32[2,8,4,4] = batch_norm(%a, %scale, none, %mean, %var) {{eps=1e-05, mode="follow", momentum=0.1}}
  %b: f32[2,8,4,4] = conv2d(%n, %tied, none) {CONV}
  %c: f32[2,8,4,4] = add(%b, %n)
  %y: f32[2,5,4,4] = conv2d(%c, %last, none) {CONV}
  return %y
}}
"""


class _Declared(Pass):
    """A pass that only says what it is."""

    name = "declared"
    numeric = NumericClass.LOSSY
    stage = Stage.TRAINING_SAFE

    def apply(self, rewriter: Rewriter) -> Outcome:
        return Outcome(0)


class _Rounding(_Declared):
    """The same, and not lossy."""

    name = "declared-rounding"
    numeric = NumericClass.ROUNDING


def _cut(graph: Graph) -> None:
    states = [("first", 0), ("scale", 0), ("mean", 0), ("var", 0), ("tied", 0), ("tied", 1), ("last", 1)]
    cut_group(graph, group_of(graph, 8, [*states, *((name, 1) for name in "anbc")]), (1, 6))


def _judge(edit: Callable[[Graph], None], pass_: type[Pass] = _Declared) -> tuple[str, str] | None:
    before = filled(NETWORK)
    after = before.clone()
    edit(after)
    return broken_promise(before, after, pass_(), ())


def test_a_lossy_pass_may_shrink_parameters_under_their_names() -> None:
    graph = filled(NETWORK)
    _cut(graph)
    assert {name: state.type.shape for name, state in graph.states.items()} == {
        "first": (6, 3, 1, 1),
        "scale": (6,),
        "mean": (6,),
        "var": (6,),
        "tied": (6, 6, 1, 1),
        "last": (5, 6, 1, 1),
    }
    assert graph.states["tied"].tied == ("alias",)
    assert _judge(_cut) is None


def test_another_pass_may_not() -> None:
    broken = _judge(_cut, _Rounding)
    assert broken == ("training-safe: param %first: f32[8,3,1,1] became param %first: f32[6,3,1,1]", "%first")


def _grow(graph: Graph) -> None:
    Rewriter(graph).replace_state("last", lambda last: last.repeat(2, 1, 1, 1), TensorType(graph.states["last"].type.dtype, (10, 8, 1, 1)))


def _flatten(graph: Graph) -> None:
    Rewriter(graph).replace_state("last", torch.flatten, TensorType(graph.states["last"].type.dtype, (40,)))


def _freeze(graph: Graph) -> None:
    Rewriter(graph).update_state(replace(graph.states["last"], trainable=False))


def _demote(graph: Graph) -> None:
    Rewriter(graph).update_state(replace(graph.states["last"], kind="buffer"))


def _untie(graph: Graph) -> None:
    _cut(graph)
    rewriter = Rewriter(graph)
    rewriter.update_state(replace(graph.states["tied"], tied=()))


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (_grow, "param %last: f32[5,8,1,1] became param %last: f32[10,8,1,1], a lossy pass may only make axes smaller"),
        (_flatten, "param %last: f32[5,8,1,1] became param %last: f32[40], a lossy pass may only make axes smaller"),
        (_freeze, "param %last: f32[5,8,1,1] became frozen param %last: f32[5,8,1,1]"),
        (_demote, "param %last: f32[5,8,1,1] became buffer %last: f32[5,8,1,1]"),
        (_untie, "tied parameters stay tied: 'alias' belonged to %tied and now belongs to nothing"),
    ],
)
def test_what_a_lossy_pass_may_not_do(edit: Callable[[Graph], None], rule: str) -> None:
    broken = _judge(edit)
    assert broken is not None
    assert broken[0].removeprefix("training-safe: ") == rule


def test_a_layer_may_go_with_its_parameters_and_come_back_as_two() -> None:
    def edit(graph: Graph) -> None:
        rewriter = Rewriter(graph)
        node = graph.value("b").producer
        assert node is not None
        rewriter.replace_value(node.result, node.value(0))
        rewriter.erase(node)
        rewriter.remove_state("tied")
        rewriter.add_state("last.reduced", graph.states["last"].type, None)

    assert _judge(edit) is None
    assert _judge(edit, _Rounding) is not None
