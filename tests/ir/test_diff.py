"""What `diff` says about two graphs."""

from __future__ import annotations

from graphopt.ir.diff import diff
from graphopt.ir.parser import parse

BEFORE = """\
graph net(%x: f32[1,8]) {
  param %w: f32[8,8]
  param %scale: f32[8]
  %fc: f32[1,8] = linear(%x, %w, none)
  %mul: f32[1,8] = mul(%fc, %scale)
  %act: f32[1,8] = relu(%mul)
  %out: f32[1,8] = neg(%act)
  return %out
}
"""
AFTER = """\
graph net(%x: f32[1,8]) {
  param %w: f32[8,8] sparse<unstructured 0.5>
  param %folded: f32[8,8]
  %fc: f32[1,8] = linear(%x, %folded, none)
  %activation: f32[1,8] = relu(%fc)
  %out: f32[1,8] = neg(%activation)
  return %out
}
"""


def test_counts_and_names() -> None:
    found = diff(parse(BEFORE), parse(AFTER))
    assert found.op_deltas == {"mul": -1}
    assert found.node_counts == (4, 3)
    assert found.states_added == ("folded",)
    assert found.states_removed == ("scale",)
    assert [change.name for change in found.states_changed] == ["w"]
    assert found.nodes_removed == ("mul", "act")
    assert found.nodes_added == ("activation",)
    assert [change.name for change in found.nodes_changed] == ["fc", "out"]


def test_a_renamed_node_is_one_change() -> None:
    found = diff(parse(BEFORE), parse(BEFORE.replace("%act", "%activation")))
    assert (found.nodes_added, found.nodes_removed) == ((), ())
    assert [(change.name, change.renamed) for change in found.nodes_changed] == [("act", True), ("out", False)]


def test_summary_and_text() -> None:
    found = diff(parse(BEFORE), parse(AFTER))
    assert found.summary() == (
        "net: 4 nodes -> 3 nodes, 2 states -> 2 states\n  ops: mul -1\n  nodes: 1 added, 2 removed, 2 changed\n"
        "  states: 1 added, 1 removed, 1 changed"
    )
    assert "-  %mul: f32[1,8] = mul(%fc, %scale)" in str(found)
    assert "+  %activation: f32[1,8] = relu(%fc)" in str(found)
    same = diff(parse(BEFORE), parse(BEFORE))
    assert same.is_empty
    assert str(same) == "net: no difference"


def test_a_long_change_is_shown_without_comparing_all_pairs() -> None:
    def long(op: str) -> str:
        lines = [f"  %n{i}: f32[1] = {op if i % 3 else 'neg'}(%{f'n{i - 1}' if i else 'x'})" for i in range(4000)]
        return "\n".join(["graph g(%x: f32[1]) {", *lines, "  return %n3999", "}"])

    found = diff(parse(long("relu")), parse(long("tanh")))
    lines = found.unified().splitlines()
    assert lines[:2] == ["--- before", "+++ after"]
    assert len([line for line in lines if line.startswith("-  ")]) == 2666
    assert len([line for line in lines if line.startswith("+  ")]) == 2666
    assert "   %n3: f32[1] = neg(%n2)" in lines
