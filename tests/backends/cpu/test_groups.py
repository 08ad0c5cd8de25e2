"""Which nodes ride on which kernel, which layouts values wish for, and which groups make blocks."""

from __future__ import annotations

from graphopt.backends.cpu.planner.blocks import Block, find_blocks
from graphopt.backends.cpu.planner.groups import Group, form_groups
from graphopt.backends.cpu.planner.layouts import Layouts
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse

CONV = "{dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}"
POINTWISE = "{dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}"


def _groups(graph: Graph) -> list[str]:
    return [_text(group) for group in form_groups(graph.nodes, Shapes())]


def _text(group: Group) -> str:
    return " ".join([group.anchor.op, *("/".join(["", *(node.op for node in link.path), link.node.op])[1:] for link in group.chain)])


def test_a_residual_joins_the_convolution_that_runs_last() -> None:
    graph = parse(f"""
graph g(%x: f32[1,16,8,8]) {{
  param %a: f32[16,16,3,3]
  param %b: f32[16,16,1,1]
  %left: f32[1,16,8,8] = conv2d(%x, %a, none) {CONV}
  %right: f32[1,16,8,8] = conv2d(%x, %b, none) {POINTWISE}
  %sum: f32[1,16,8,8] = add(%left, %right)
  %relu: f32[1,16,8,8] = relu(%sum)
  return %relu
}}""")
    assert _groups(graph) == ["conv2d", "conv2d add relu"]


def test_a_value_with_two_readers_is_stored() -> None:
    graph = parse(f"""
graph g(%x: f32[1,16,8,8]) {{
  param %a: f32[16,16,3,3]
  %y: f32[1,16,8,8] = conv2d(%x, %a, none) {CONV}
  %gate: f32[1,16,8,8] = sigmoid(%y)
  %z: f32[1,16,8,8] = mul(%y, %gate)
  return %z
}}""")
    assert _groups(graph) == ["conv2d", "sigmoid mul"]


def test_views_between_a_product_and_its_residual_are_ridden_over() -> None:
    graph = parse("""
graph g(%x: f32[8,32], %r: f32[1,2,4,16]) {
  param %w: f32[16,32]
  %y: f32[8,16] = linear(%x, %w, none)
  %image: f32[1,2,4,16] = reshape(%y) {shape=(1, 2, 4, 16)}
  %z: f32[1,2,4,16] = add(%image, %r)
  return %z
}""")
    assert _groups(graph) == ["linear reshape/add"]


def test_a_permute_that_mixes_rows_is_not_ridden_over() -> None:
    graph = parse("""
graph g(%x: f32[8,32], %r: f32[4,2,16]) {
  param %w: f32[16,32]
  %y: f32[8,16] = linear(%x, %w, none)
  %pair: f32[2,4,16] = reshape(%y) {shape=(2, 4, 16)}
  %swap: f32[4,2,16] = permute(%pair) {axes=(1, 0, 2)}
  %flat: f32[8,16] = reshape(%swap) {shape=(8, 16)}
  %z: f32[8,16] = relu(%flat)
  return %z
}""")
    assert _groups(graph) == ["linear", "reshape", "permute", "reshape", "relu"]


def test_integers_do_not_ride() -> None:
    graph = parse("""
graph g(%x: i64[4], %y: i64[4]) {
  %a: i64[4] = add(%x, %y)
  %b: i64[4] = mul(%a, 2)
  return %b
}""")
    assert _groups(graph) == ["add", "mul"]


def test_broadcasting_up_starts_a_group() -> None:
    graph = parse("""
graph g(%x: f32[1,16], %y: f32[4,16]) {
  %a: f32[1,16] = relu(%x)
  %b: f32[4,16] = add(%a, %y)
  return %b
}""")
    assert _groups(graph) == ["relu", "add"]


def test_layouts_and_halos() -> None:
    graph = parse(f"""
graph g(%x: f32[1,3,8,8]) {{
  param %a: f32[32,3,3,3]
  param %b: f32[32,32,3,3]
  param %c: f32[32]
  %stem: f32[1,32,8,8] = conv2d(%x, %a, none) {CONV}
  %body: f32[1,32,8,8] = conv2d(%stem, %b, none) {CONV}
  %last: f32[1,8,8,32] = permute(%body) {{axes=(0, 2, 3, 1)}}
  %norm: f32[1,8,8,32] = layer_norm(%last, %c, none) {{eps=1e-05, normalized_shape=(32,)}}
  return %norm
}}""")
    layouts = Layouts(graph.nodes, Shapes())
    assert [layouts.wish(graph.value(name)) for name in ("x", "stem", "body", "norm")] == ["plain", "blocked", "last", "plain"]
    assert [layouts.halo(graph.value(name)) for name in ("x", "stem", "body")] == [(1, 1), (1, 1), (0, 0)]


def test_channels_that_are_cut_inside_a_vector_are_stored_last() -> None:
    graph = parse(f"""
graph g(%x: f32[1,32,8,8]) {{
  param %a: f32[24,32,1,1]
  param %b: f32[32,32,1,1]
  %one: f32[1,24,8,8] = conv2d(%x, %a, none) {POINTWISE}
  %two: f32[1,32,8,8] = conv2d(%x, %b, none) {POINTWISE}
  %both: f32[1,56,8,8] = concat(%one, %two) {{axis=1}}
  return %both
}}""")
    assert Layouts(graph.nodes, Shapes()).wish(graph.value("both")) == "last"


def test_an_inverted_residual_is_a_block() -> None:
    graph = parse(f"""
graph g(%x: f32[1,16,8,8]) {{
  param %a: f32[64,16,1,1]
  param %b: f32[64,1,3,3]
  param %c: f32[16,64,1,1]
  %expand: f32[1,64,8,8] = conv2d(%x, %a, none) {POINTWISE}
  %relu: f32[1,64,8,8] = relu(%expand)
  %depthwise: f32[1,64,8,8] = conv2d(%relu, %b, none) {{dilation=(1, 1), groups=64, padding=(1, 1), stride=(1, 1)}}
  %relu_1: f32[1,64,8,8] = relu(%depthwise)
  %project: f32[1,16,8,8] = conv2d(%relu_1, %c, none) {POINTWISE}
  %sum: f32[1,16,8,8] = add(%project, %x)
  return %sum
}}""")
    shapes = Shapes()
    (block,) = find_blocks(form_groups(graph.nodes, shapes), shapes)
    assert isinstance(block, Block)
    assert block.kind == "expand"
    assert [_text(group) for group in block.groups] == ["conv2d relu", "conv2d relu", "conv2d add"]
