"""What `axis_groups` promises: names, kinds, exclusion, reasons, heads, and the same answer every time."""

from __future__ import annotations

import numpy
import pytest
import torch

from graphopt import ops
from graphopt.analysis.axes import Role, axis_groups, show_groups
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import UsageError
from graphopt.ir.parser import parse
from graphopt.pipeline.poison import poison_check
from graphopt.rewrite.cut import cut, replay
from graphopt.rewrite.rewriter import Rewriter
from tests.support.axis_cases import CASES, Net
from tests.support.cutting import with_dead_units
from tests.support.random_graphs import fill


def fixed_reasons(text: str, **options: str) -> dict[tuple[str, int], str]:
    graph = parse(text)
    return {(fixed.value.name, fixed.axis): fixed.reason for fixed in axis_groups(graph, **options).fixed}  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", CASES)
def test_a_clone_has_the_same_groups(name: str) -> None:
    graph = CASES[name]()
    assert show_groups(graph.clone(), axis_groups(graph.clone())) == show_groups(graph, axis_groups(graph))


@pytest.mark.parametrize("name", CASES)
def test_members_are_found_by_value_and_axis(name: str) -> None:
    groups = axis_groups(CASES[name]())
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        assert groups[group.name] is group
        for member in group.members:
            assert (group, member) in groups.of(member.value, member.axis)
            assert member.units.shape == (member.value.shape[member.axis],)
            assert set(numpy.unique(member.units[member.units >= 0])) == set(range(group.size))


def test_features_inside_heads_leave_the_heads_alone() -> None:
    (group,) = [group for group in axis_groups(CASES["grouped_query_attention"](), heads="inside") if group.name == "q_proj"]
    assert (group.kind, group.size) == ("feature", 3)
    assert {member.value.name for member in group.members if member.role is Role.WRITTEN} == {
        "q_proj.weight",
        "q_proj.bias",
        "k_proj.weight",
        "k_proj.bias",
    }


def test_an_excluded_layer_keeps_its_axes_and_says_so() -> None:
    graph = CASES["residual_block"]()
    groups = axis_groups(graph, exclude=["conv1"])
    assert [group.name for group in groups] == []
    reasons = {(fixed.value.name, fixed.axis): fixed.reason for fixed in groups.fixed}
    assert reasons["conv1.weight", 0] == reasons["conv2.weight", 1] == "excluded by 'conv1'"
    assert reasons["fc.weight", 1] == "excluded by 'conv1'"


def test_an_exclusion_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing in graph 'residual_block' matches exclude 'conv3'") as error:
        axis_groups(CASES["residual_block"](), exclude=["conv3"])
    assert "conv1" in (error.value.fix or "")


def test_unknown_ops_fix_what_they_read() -> None:
    reasons = fixed_reasons(
        """graph g(%x: f32[2,3]) {
          param %w: f32[4,3]
          param %v: f32[5,4]
          %a: f32[2,4] = linear(%x, %w, none)
          %b: f32[2,4] = aten.strange.default(%a)
          %c: f32[2,5] = linear(%b, %v, none)
          return %c
        }"""
    )
    assert reasons["w", 0] == reasons["v", 1] == "aten.strange.default is opaque (%b)"


def test_tied_weights_are_named() -> None:
    reasons = fixed_reasons(
        """graph g(%x: i64[2,3]) {
          param %table: f32[9,4] tied ("head.weight",)
          %a: f32[2,3,4] = embedding(%table, %x) {padding_idx=none}
          %b: f32[2,3,9] = linear(%a, %table, none)
          return %b
        }"""
    )
    assert reasons == {("table", 0): "embedding %a looks its rows up by number; the tensor is also head.weight"}


@pytest.mark.parametrize(
    ("inputs", "states", "op", "result", "place", "reason"),
    [
        ("", "param %t: f32[20,7] buffer %i: i64[10,7]", "gather(%t, %i) {axis=1}", "f32[10,7]", ("t", 0), "longer axis"),
        (
            "",
            "param %q: f32[1,6,4] param %k: f32[1,5,4] param %v: f32[1,5,4]",
            "scaled_dot_product_attention(%q, %k, %v, none) {causal=true, dropout_p=0.0, grouped=false, scale=none}",
            "f32[1,6,4]",
            ("q", 1),
            "compares queries and keys by number",
        ),
        ("", "param %d: f32[8,8] param %a: f32[2,8]", 'einsum(%d, %a) {equation="ii,bi->bi"}', "f32[2,8]", ("a", 1), "takes its diagonal"),
        ("%x: f32[n]", "param %p: f32[9,4]", "slice(%p) {axis=0, start=0, stop=n, step=1}", "f32[n,4]", ("p", 0), "ends at a symbolic"),
        ("%x: f32[n]", "param %p: f32[6]", "add(%x, %p)", "f32[n]", ("p", 0), "couples it to a symbolic size"),
        ("", "param %p: f32[2,6]", 'pad(%p) {pads=((0, 0), (-1, 0)), mode="constant", value=0.0}', "f32[2,5]", ("p", 1), "crops it"),
    ],
)
def test_positions_that_are_counted_stay(inputs: str, states: str, op: str, result: str, place: tuple[str, int], reason: str) -> None:
    symbols = " where n in [1, 8]" if inputs else ""
    reasons = fixed_reasons(f"graph g({inputs}){symbols} {{ {states} %y: {result} = {op} return }}")
    assert reason in reasons[place]


def test_channels_before_symbolic_heights_and_widths_can_go() -> None:
    graph = parse(
        """graph g(%x: f32[2,3,h,w]) where h in [1, 8], w in [1, 8] {
          param %conv.weight: f32[8,3,1,1]
          param %fc.weight: f32[5,8]
          %conv: f32[2,8,h,w] = conv2d(%x, %conv.weight, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %flat: f32[2,8,h*w] = reshape(%conv) {shape=(2, 8, h*w)}
          %turned: f32[2,h*w,8] = permute(%flat) {axes=(0, 2, 1)}
          %fc: f32[2,h*w,5] = linear(%turned, %fc.weight, none)
          return %fc
        }"""
    )
    groups = axis_groups(graph)
    assert [(group.name, group.size) for group in groups] == [("conv", 8)]
    cut(Rewriter(graph), groups, {groups["conv"]: numpy.arange(8) < 3})
    assert graph.value("flat").type.text == "f32[2,5,h*w]"


def test_features_inside_heads_that_are_merged_with_a_symbolic_batch_can_go() -> None:
    parts = "".join(
        f"""%{part}: f32[5,n,8] = linear(%x, %{part}.weight, none)
          %{part}.merged: f32[5,2*n,4] = reshape(%{part}) {{shape=(5, 2*n, 4)}}
          %{part}.turned: f32[2*n,5,4] = permute(%{part}.merged) {{axes=(1, 0, 2)}}
          %{part}.heads: f32[n,2,5,4] = reshape(%{part}.turned) {{shape=(n, 2, 5, 4)}}
          """
        for part in "qkv"
    )
    graph = parse(
        f"""graph g(%x: f32[5,n,6]) where n in [1, 8] {{
          param %q.weight: f32[8,6] param %k.weight: f32[8,6] param %v.weight: f32[8,6] param %out.weight: f32[6,8]
          {parts}
          %a: f32[n,2,5,4] = scaled_dot_product_attention(%q.heads, %k.heads, %v.heads, none)
            {{causal=false, dropout_p=0.0, grouped=false, scale=none}}
          %back: f32[5,n,2,4] = permute(%a) {{axes=(2, 0, 1, 3)}}
          %joined: f32[5,n,8] = reshape(%back) {{shape=(5, n, 8)}}
          %out: f32[5,n,6] = linear(%joined, %out.weight, none)
          return %out
        }}"""
    )
    fill(graph)
    groups = axis_groups(graph)
    assert [(group.name, group.size) for group in groups] == [("q", 4), ("v", 4)]
    removal = {group: numpy.arange(4) == 1 for group in groups}
    inputs = [torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(0))]
    assert poison_check(graph, groups, removal, inputs) == ()
    dead = with_dead_units(graph, removal)
    record = cut(Rewriter(graph), groups, removal)
    assert graph.value("q.merged").type.text == "f32[5,2*n,3]"
    (expected,) = Interpreter(dead, precise=True).run(*inputs)
    (found,) = Interpreter(replay(dead, record), precise=True).run(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_sizes_that_do_not_divide_can_not_be_cut() -> None:
    reasons = fixed_reasons(
        """graph g(%x: f32[2,3]) {
          param %w: f32[24,3]
          %a: f32[2,24] = linear(%x, %w, none)
          %b: f32[2,4,6] = reshape(%a) {shape=(2, 4, 6)}
          %c: f32[2,6,4] = reshape(%b) {shape=(2, 6, 4)}
          %d: f32[2,4] = sum(%c) {axes=(1,), keepdims=false}
          return %d
        }"""
    )
    assert reasons["w", 0] == "reshape %c regroups it into sizes that do not divide one another"


def test_symbolic_axes_are_left_alone() -> None:
    graph = parse(
        """graph g(%x: f32[batch,3]) where batch in [1, 8] {
          param %w: f32[4,3]
          param %v: f32[5,4]
          %a: f32[batch,4] = linear(%x, %w, none)
          %b: f32[batch,2,2] = reshape(%a) {shape=(batch, 2, 2)}
          %c: f32[batch,4] = reshape(%b) {shape=(batch, 4)}
          %d: f32[batch,5] = linear(%c, %v, none)
          return %d
        }"""
    )
    (group,) = axis_groups(graph)
    assert (group.name, group.size) == ("a", 2)


def test_transposed_and_depthwise_convolutions() -> None:
    net = Net("net")
    x = net.conv("stem", net.input(2, 3, 4, 4), 4)
    multiplied = net.conv("depthwise", x, 8, 3, groups=4)
    weight = net.state("up.weight", 8, 3, 2, 2)
    options = {"stride": (2, 2), "padding": (0, 0), "output_padding": (0, 0), "dilation": (1, 1)}
    up = net.op("up", "conv_transpose2d", multiplied, weight, net.state("up.bias", 6), groups=2, **options)  # pyright: ignore[reportArgumentType]
    groups = axis_groups(net.done(net.conv("head", up, 5)))
    text = show_groups(net.builder.graph, groups)
    assert [(group.name, group.size) for group in groups] == [("stem", 2), ("up", 3)], text
    assert {m.value.name: m.role for m in groups["up"].members if m.role is not Role.CARRIED} == {
        "up.weight": Role.WRITTEN,
        "up.bias": Role.WRITTEN,
        "head.weight": Role.READ,
    }


def test_the_bias_of_a_depthwise_convolution_is_scaled_as_its_kernels_are() -> None:
    graph = parse(
        """graph g(%x: f32[2,3,4,4]) {
          param %stem.weight: f32[6,3,1,1] param %each.weight: f32[6,1,3,3] param %each.bias: f32[6] param %head.weight: f32[2,6,1,1]
          %a: f32[2,6,4,4] = conv2d(%x, %stem.weight, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          %b: f32[2,6,4,4] = conv2d(%a, %each.weight, %each.bias) {dilation=(1, 1), groups=6, padding=(1, 1), stride=(1, 1)}
          %c: f32[2,2,4,4] = conv2d(%b, %head.weight, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
          return %c
        }"""
    )
    (group,) = axis_groups(graph)
    assert {member.value.name: member.role for member in group.members if member.role is not Role.CARRIED} == {
        "stem.weight": Role.WRITTEN,
        "each.weight": Role.SCALED,
        "each.bias": Role.SCALED,
        "head.weight": Role.READ,
    }


@pytest.mark.parametrize(("window", "stride", "size"), [(1, 1, 8), (1, 2, 4), (3, 1, 6)])
def test_a_window_of_one_position_leaves_the_axis_free(window: int, stride: int, size: int) -> None:
    graph = parse(
        f"""graph mixer(%x: f32[2,5,3]) {{
          param %embed.weight: f32[8,3] param %tokens.weight: f32[7,5,{window}] param %head.weight: f32[2,{size}]
          %a: f32[2,5,8] = linear(%x, %embed.weight, none)
          %b: f32[2,7,{size}] = conv1d(%a, %tokens.weight, none) {{dilation=(1,), groups=1, padding=(0,), stride=({stride},)}}
          %c: f32[2,7,2] = linear(%b, %head.weight, none)
          return %c
        }}"""
    )
    found = [(group.name, group.size) for group in axis_groups(graph)]
    assert found == ([("a", 8)] if (window, stride) == (1, 1) else [])


def test_sizes_of_zero_are_named() -> None:
    reasons = fixed_reasons(
        """graph g(%x: f32[2,3]) {
          param %w: f32[4,0]
          %a: f32[0,2,2] = reshape(%w) {shape=(0, 2, 2)}
          return %a
        }"""
    )
    assert reasons["w", 0] == "reshape %a mixes it with an axis of size 0"


def test_weights_that_are_computed_keep_their_roles() -> None:
    net = Net("net")
    weight = net.op("double", "mul", net.state("w", 4, 3), 2.0)
    x = net.op("layer", "linear", net.input(2, 3), weight, None)
    (group,) = axis_groups(net.done(net.linear("head", x, 5)))
    assert [(m.value.name, m.role) for m in group.members if m.role is not Role.CARRIED] == [
        ("w", Role.WRITTEN),
        ("head.weight", Role.READ),
    ]


def test_packed_weights_that_are_split_are_written() -> None:
    net = Net("net")
    x = net.input(2, 3)
    parts = net.builder.insert("split", (net.state("packed", 8, 3),), {"axis": 0, "sizes": (4, 4)}, name="split").results
    left, right = (net.op(name, "linear", x, part, None) for name, part in zip(("left", "right"), parts, strict=True))
    (group,) = axis_groups(net.done(net.linear("head", net.op("gate", "mul", left, right), 5)))
    assert (group.name, group.members[0].value.name, group.members[0].role) == ("left", "packed", Role.WRITTEN)


def test_weights_made_of_two_products_keep_their_roles() -> None:
    net = Net("net")
    first = net.linear("first", net.input(2, 3), 4)
    weight = net.reshape("flat", net.state("w", 5, 3, 2, 2), 15, 4)
    groups = axis_groups(net.done(net.linear("head", net.op("layer", "linear", first, weight, None), 5)))
    assert {(m.value.name, m.axis, m.role) for group in groups for m in group.members if m.value.name == "w"} == {
        ("w", 0, Role.WRITTEN),
        ("w", 2, Role.READ),
    }
    assert [(group.name, group.size) for group in groups] == [("first", 2), ("layer", 5)]


def test_every_canonical_op_but_control_flow_has_a_rule() -> None:
    assert [found.name for found in ops.definitions() if found.axes is None] == ["cond"]
