"""Cuts of small graphs: their text, their numbers, what is kept of states, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy
import pytest
import torch

from graphopt.analysis import sparsity
from graphopt.analysis.axes.groups import AxisGroups
from graphopt.errors import PassError
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.ir.parser import parse
from graphopt.ops import verify
from graphopt.rewrite.cut import cut, replay
from graphopt.rewrite.cut.attributes import RULES
from graphopt.rewrite.rewriter import Rewriter
from tests.rewrite.cut.cases import CASES, Case
from tests.support.cutting import cut_group, group_of, removal_of, with_dead_units
from tests.support.folding import filled, largest_difference, set_state

CONV = "{dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}"
CHAIN = f"""graph g(%x: f32[1,3,4,4]) {{
  param %w1: f32[4,3,1,1] tied ("alias",)
  param %w2: f32[2,4,1,1]
  %a: f32[1,4,4,4] = conv2d(%x, %w1, none) {CONV}
  %b: f32[1,4,4,4] = relu(%a)
  %y: f32[1,2,4,4] = conv2d(%b, %w2, none) {CONV}
  return %y
}}
"""
CHAIN_MEMBERS = (("w1", 0), ("a", 1), ("b", 1), ("w2", 1))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_text_after_the_cut(case: Case) -> None:
    graph = filled(case.text)
    cut_group(graph, group_of(graph, case.size, case.members), case.gone)
    verify(graph)
    before = _lines(case.text)
    assert [line for line in _lines(str(graph)) if line not in before] == _lines(case.changed)
    assert graph.node_count == parse(case.text).node_count


@pytest.mark.parametrize("case", [case for case in CASES if not case.renormalised], ids=lambda case: case.name)
def test_units_that_are_zero_leave_the_outputs_as_they_are(case: Case) -> None:
    graph = filled(case.text)
    group = group_of(graph, case.size, case.members)
    dead = with_dead_units(graph, removal_of(group, case.gone))
    record = cut_group(graph, group, case.gone)
    assert largest_difference(dead, replay(dead, record)) <= 1e-12


def test_every_rule_for_attributes_is_tried() -> None:
    used = {node.op for case in CASES for node in parse(case.text).nodes}
    convolutions = {f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)}
    assert set(RULES) - used - convolutions == {"linspace"}  # always refused


def test_states_keep_name_kind_flags_ties_and_order() -> None:
    graph = filled(CHAIN)
    GraphEditor(graph).update_state(replace(graph.states["w2"], trainable=False, digest="0" * 64))
    data = graph.states["w1"].data
    assert data is not None
    cut_group(graph, group_of(graph, 4, CHAIN_MEMBERS), (1, 2))
    assert list(graph.states) == ["w1", "w2"]
    first, second = graph.states["w1"], graph.states["w2"]
    assert (first.tied, first.trainable, first.kind) == (("alias",), True, "param")
    assert (second.trainable, second.digest) == (False, None)
    assert first.data is not None
    assert torch.equal(first.data.tensor(), data.tensor()[[0, 3]])


def test_a_graph_without_numbers_is_cut_too() -> None:
    graph = parse(CHAIN)
    cut_group(graph, group_of(graph, 4, CHAIN_MEMBERS), (0,))
    assert graph.states["w1"].type.text == "f32[3,3,1,1]"
    assert graph.states["w1"].data is None


def test_a_cut_of_a_cut_is_that_of_both() -> None:
    graph, once = filled(CHAIN), filled(CHAIN)
    for gone in ((1,), (2,)):
        cut_group(graph, group_of(graph, graph.states["w1"].type.static_shape[0], CHAIN_MEMBERS), gone)
    cut_group(once, group_of(once, 4, CHAIN_MEMBERS), (1, 3))
    assert str(graph) == str(once)
    assert largest_difference(graph, once) == 0


def test_two_groups_on_one_axis() -> None:
    text = """graph g(%x: f32[2,4]) {
  param %w1: f32[2,4]
  param %w2: f32[3,4]
  param %w3: f32[6,5]
  %a: f32[2,2] = linear(%x, %w1, none)
  %b: f32[2,3] = linear(%x, %w2, none)
  %c: f32[2,5] = concat(%a, %b) {axis=1}
  %y: f32[2,6] = linear(%c, %w3, none)
  return %y
}
"""
    graph = filled(text)
    first = group_of(graph, 2, [("w1", 0), ("a", 1), ("c", 1, [0, 1, -1, -1, -1]), ("w3", 1, [0, 1, -1, -1, -1])], "first")
    second = group_of(graph, 3, [("w2", 0), ("b", 1), ("c", 1, [-1, -1, 0, 1, 2]), ("w3", 1, [-1, -1, 0, 1, 2])], "second")
    record = cut(Rewriter(graph), AxisGroups((first, second), ()), {**removal_of(first, [0]), **removal_of(second, [2])})
    assert record.states["w3"] == ((1, (1, 2, 3)),)
    assert record.groups == {"first": (1, 2), "second": (1, 3)}
    verify(graph)


SPARSE = """graph g(%x: f32[2,4]) {
  param %w1: f32[8,4] sparse<2:4 axis=1 0.5>
  param %w2: f32[4,8] sparse<unstructured 0.5>
  %a: f32[2,8] = linear(%x, %w1, none)
  %b: f32[2,8] = relu(%a)
  %y: f32[2,4] = linear(%b, %w2, none)
  return %y
}
"""
SPARSE_CUT = """graph g(%x: f32[2,4]) {
  param %w1: f32[6,4] sparse<2:4 axis=1 0.5>
  param %w2: f32[4,6] sparse<unstructured 0.375>
  %a: f32[2,6] = linear(%x, %w1, none)
  %b: f32[2,6] = relu(%a)
  %y: f32[2,4] = linear(%b, %w2, none)
  return %y
}
"""
SPARSE_MEMBERS = (("w1", 0), ("a", 1), ("b", 1), ("w2", 1))


def _sparse() -> Graph:
    """Of `w1` every second input is zero, of `w2` 16 numbers: a column and most of four more."""
    graph = filled(SPARSE)
    first, second = torch.randn(8, 4), torch.randn(4, 8)
    first[:, ::2] = 0
    second[:, 1] = 0
    second[:3, 2:6] = 0
    set_state(graph, "w1", first)
    set_state(graph, "w2", second)
    return graph


def test_annotated_zeros_stay_annotated_with_what_is_true_of_the_rest() -> None:
    graph = _sparse()
    record = cut_group(graph, group_of(graph, 8, SPARSE_MEMBERS), (1, 3))
    assert str(graph).splitlines() == SPARSE_CUT.splitlines()
    assert all(found.holds for found in sparsity(graph))
    verify(graph)
    assert str(replay(_sparse(), record)) == str(graph)


def test_no_annotation_without_zeros_or_without_numbers() -> None:
    dense = _sparse()
    set_state(dense, "w2", torch.ones(4, 8))
    cut_group(dense, group_of(dense, 8, SPARSE_MEMBERS), (1,))
    assert dense.states["w2"].type.text == "f32[4,7]"
    graph = parse(SPARSE)
    cut_group(graph, group_of(graph, 8, SPARSE_MEMBERS), (1,))
    assert [state.type.text for state in graph.states.values()] == ["f32[7,4]", "f32[4,7]"]


def test_nothing_to_remove_changes_nothing() -> None:
    graph = filled(CHAIN)
    record = cut_group(graph, group_of(graph, 4, CHAIN_MEMBERS), ())
    assert str(graph) == CHAIN
    assert not record.states


# What is refused, before anything is edited


def _refused(graph: Graph, size: int, members: Sequence[tuple[str, int] | tuple[str, int, Sequence[int]]], gone: tuple[int, ...]) -> str:
    text = str(graph)
    with pytest.raises(PassError) as caught:
        cut_group(graph, group_of(graph, size, members), gone)
    assert str(graph) == text
    return str(caught.value)


def test_a_removal_has_to_fit_its_group() -> None:
    graph = filled(CHAIN)
    group, other = group_of(graph, 4, CHAIN_MEMBERS), group_of(graph, 4, CHAIN_MEMBERS, "other")
    with pytest.raises(PassError, match="the removal from group g has 3 entries, the group has 4 units"):
        cut(Rewriter(graph), AxisGroups((group,), ()), {group: numpy.zeros(3, dtype=bool)})
    with pytest.raises(PassError, match=r"group other is not one of this graph's\n  fix: analyse the graph again after every edit"):
        cut(Rewriter(graph), AxisGroups((group,), ()), removal_of(other, [0]))
    with pytest.raises(PassError, match=r"the groups are not of this graph: %w1 is of another one"):
        cut(Rewriter(graph.clone()), AxisGroups((group,), ()), removal_of(group, [0]))


def test_nothing_may_be_left_of_an_axis() -> None:
    message = _refused(filled(CHAIN), 4, CHAIN_MEMBERS, (0, 1, 2, 3))
    assert message == "nothing would be left of axis 0 of %w1: f32[4,3,1,1]\n  fix: keep at least one unit of each group"


def test_a_group_that_is_not_closed_is_an_internal_error_with_the_node() -> None:
    message = _refused(filled(CHAIN), 4, CHAIN_MEMBERS[:-1], (0,))
    assert message.startswith("after the cut operands of %y do not fit: conv2d(f32[1,3,4,4], f32[2,4,1,1], none): operand 0 has 3 channels")
    message = _refused(filled(CHAIN), 4, [("w1", 0), ("a", 1), ("w2", 1)], (0,))
    assert message.startswith("internal error: by the axis groups %b: f32[1,4,4,4] becomes [1,4,4,4], by the type rules [1,3,4,4]")
    assert "%b: f32[1,4,4,4] = relu(%a)" in message


def test_outputs_stay_and_unknown_ops_are_not_fed_something_else() -> None:
    message = _refused(parse(CHAIN.replace("return %y", "return %y, %b")), 4, CHAIN_MEMBERS, (0,))
    assert message == "the cut would make output %b: f32[1,4,4,4] a f32[1,3,4,4]\n  fix: exclude the groups that reach the outputs"
    message = _refused(parse(CHAIN.replace("relu(%a)", "aten.histc.default(%a)")), 4, CHAIN_MEMBERS, (0,))
    assert message.startswith("the cut would give aten.histc.default a f32[1,3,4,4] as %a, and nothing is known of what it does with it")


def _one(op: str, result: str) -> Graph:
    """A graph of one op on %x, summed up so that only a number comes out."""
    axes = "(0, 1)" if "," in result else "(0,)"
    total = f"%s: f32[] = sum(%y) {{axes={axes}, keepdims=false}}"
    return parse(f"graph g(%u: f32[2,3]) {{ param %x: f32[2,6] %y: {result} = {op} {total} return %s }}")


@pytest.mark.parametrize(
    ("graph", "size", "members", "gone", "message"),
    [
        (
            _one("slice(%x) {axis=1, start=0, stop=6, step=2}", "f32[2,3]"),
            6,
            [("x", 1), ("y", 1, [0, 2, 4])],
            (1,),
            "the slice of every 2. position keeps 3 positions, which are not evenly spaced any more",
        ),
        (_one("select(%x) {axis=1, index=2}", "f32[2]"), 6, [("x", 1)], (2,), "position 2 is selected from an axis that loses it"),
        (
            _one("tile(%x) {repeats=(1, 2)}", "f32[2,12]"),
            6,
            [("x", 1), ("y", 1, [*range(6), *range(5), -1])],
            (5,),
            "axis 1 of the result would keep 11 positions, the operand 5, which does not divide them",
        ),
        (
            _one("arange() {start=0, stop=6, step=1, dtype=f32}", "f32[6]"),
            6,
            [("y", 0)],
            (2,),
            "numbers that count up can only lose the last ones",
        ),
        (
            _one("linspace() {start=0.0, stop=1.0, steps=6, dtype=f32}", "f32[6]"),
            6,
            [("y", 0)],
            (5,),
            "linspace computes its elements from start, stop and steps and can't lose single ones",
        ),
        (
            _one("eye() {rows=6, columns=6, dtype=f32}", "f32[6,6]"),
            6,
            [("y", 0)],
            (5,),
            "a unit matrix has to lose the same rows and columns",
        ),
        (
            _one("group_norm(%x, none, none) {groups=2, eps=1e-05}", "f32[2,6]"),
            6,
            [("x", 1), ("y", 1)],
            (0,),
            "the 2 groups of group_norm would keep between 2 and 3 channels, needs equal numbers",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_attributes_can_say(
    graph: Graph, size: int, members: Sequence[tuple[str, int] | tuple[str, int, Sequence[int]]], gone: tuple[int, ...], message: str
) -> None:
    found = _refused(graph, size, members, gone)
    assert found.startswith(f"{message}\n  at ")
    assert found.endswith("fix: exclude the groups that %y belongs to")
