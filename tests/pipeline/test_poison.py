"""The poison check finds what groups leave out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy
import pytest
import torch

from graphopt.analysis.axes import AxisGroup, AxisGroups, Member, axis_groups
from graphopt.errors import BrokenPromiseError, PassError
from graphopt.ir.graph import Graph
from graphopt.pipeline.poison import poison_check, require_closed
from tests.support.axis_cases import CASES
from tests.support.random_graphs import fill


def without(groups: AxisGroups, name: str, drop: Callable[[Member], bool]) -> tuple[AxisGroups, AxisGroup]:
    """The groups, one of which has forgotten some members."""
    group = groups[name]
    broken = replace(group, members=tuple(member for member in group.members if not drop(member)))
    assert len(broken.members) < len(group.members), "the test drops something"
    return AxisGroups(tuple(broken if other is group else other for other in groups), groups.fixed), broken


def prepared(case: str) -> tuple[Graph, list[torch.Tensor]]:
    graph = CASES[case]()
    fill(graph)
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(value.type.static_shape, generator=generator)
        if value.type.dtype.is_float
        else torch.randint(0, 4, value.type.static_shape, generator=generator)
        for value in graph.inputs
    ]
    return graph, inputs


@pytest.mark.parametrize(
    ("case", "name", "forgotten", "where"),
    [
        ("residual_block", "conv1", "conv2.weight", "conv2"),
        ("residual_block", "stem", "add", "add"),
        ("residual_block", "stem", "fc.weight", "fc"),
        ("swin_block", "qkv", "scores", "scores"),
        ("swin_block", "embed", "norm1", "norm1"),
        ("swin_block", "qkv", "proj.weight", "proj"),
        ("grouped_query_attention", "q_proj", "attention", "attention"),
        ("grouped_conv", "conv1", "conv2.weight", "conv2"),
        ("shuffle_unit", "stem", "shuffled", "shuffled"),
        ("gated_linear_unit", "in", "gated", "gated"),
        ("group_norm", "conv1", "norm", "norm"),
    ],
)
def test_a_forgotten_member_leaks(case: str, name: str, forgotten: str, where: str) -> None:
    graph, inputs = prepared(case)
    broken, group = without(axis_groups(graph), name, lambda member: member.value.name == forgotten)
    gone = numpy.arange(group.size) == 0
    leaks = poison_check(graph, broken, {group: gone}, inputs)
    assert [leak.node.name for leak in leaks][:1] == [where]
    assert f"%{where}: removed units reach" in str(leaks[0])


def test_a_forgotten_column_is_named_with_its_first_element() -> None:
    graph, inputs = prepared("flatten_linear")
    broken, group = without(axis_groups(graph), "conv", lambda member: member.value.name == "relu")
    with pytest.raises(
        BrokenPromiseError, match=r"relu %relu: removed units reach 32 elements of %relu: f32\[2,6,4,4\], \[0, 2, 0, 0\] the first"
    ):
        require_closed(graph, broken, {group: numpy.arange(6) == 2}, inputs)


def test_closed_groups_pass() -> None:
    graph, inputs = prepared("residual_block")
    groups = axis_groups(graph)
    require_closed(graph, groups, {group: numpy.arange(group.size) < 2 for group in groups}, inputs)


def test_nan_that_the_network_makes_itself_is_no_leak() -> None:
    graph, inputs = prepared("residual_block")
    groups = axis_groups(graph)
    inputs[0][0, 0, 0, 0] = float("nan")
    assert poison_check(graph, groups, {groups["conv1"]: numpy.arange(6) < 3}, inputs) == ()


def test_groups_of_another_graph_are_refused() -> None:
    graph, inputs = prepared("residual_block")
    (group, *_) = axis_groups(graph.clone())
    with pytest.raises(PassError, match="group stem is not one of this graph's"):
        poison_check(graph, axis_groups(graph), {group: numpy.ones(8, dtype=bool)}, inputs)
