"""Axis groups made by hand, and what a cut has to keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy
import torch
from numpy.typing import NDArray

from graphopt.analysis.axes.groups import AxisGroup, AxisGroups, Member, Removal, Role
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.rewrite.cut import CutRecord, cut
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["by_name", "cut_group", "group_of", "half_of", "removal_of", "with_dead_units"]


def group_of(graph: Graph, size: int, members: Iterable[tuple[str, int] | tuple[str, int, Sequence[int]]], name: str = "g") -> AxisGroup:
    """A group from (value, axis) where position i is unit i, or (value, axis, unit of each position)."""
    found: list[Member] = []
    for member in members:
        value = graph.value(member[0])
        units = numpy.array(member[2] if len(member) == 3 else range(size), dtype=numpy.int64)
        role = Role.WRITTEN if graph.state_of(value) is not None else Role.CARRIED
        found.append(Member(value, member[1], units, role, "by hand"))
    return AxisGroup(name=name, kind="channel", size=size, members=tuple(found))


def removal_of(group: AxisGroup, gone: Iterable[int]) -> Removal:
    """Some units of one group."""
    mask = numpy.zeros(group.size, dtype=bool)
    mask[list(gone)] = True
    return {group: mask}


def cut_group(graph: Graph, group: AxisGroup, gone: Iterable[int]) -> CutRecord:
    """Take units of a group out of a graph, in place."""
    return cut(Rewriter(graph), AxisGroups((group,), ()), removal_of(group, gone))


def with_dead_units(graph: Graph, removal: Removal) -> Graph:
    """A copy in which every state is zero where units go."""
    copy = graph.clone()
    editor = GraphEditor(copy)
    for group, gone in removal.items():
        padded = numpy.append(gone, False)
        for member in group.members:
            state = copy.states.get(member.value.name)
            if state is None or state.data is None or graph.state_of(member.value) is None:
                continue
            tensor = state.data.tensor().clone()
            lost = torch.from_numpy(padded[member.units].nonzero()[0])
            editor.update_state(replace(state, data=TensorData(tensor.index_fill(member.axis, lost, 0))))
    return copy


def half_of(groups: AxisGroups, seed: int = 0, *, renormalised: bool = True) -> Removal:
    """Half of the units of every group that has two or more, drawn at random."""
    generator = numpy.random.default_rng(seed)
    removal: dict[AxisGroup, NDArray[numpy.bool_]] = {}
    for group in groups:
        if group.size > 1 and (renormalised or not group.renormalised):
            removal[group] = numpy.isin(numpy.arange(group.size), generator.permutation(group.size)[: group.size // 2])
    return removal


def by_name(removal: Removal, groups: AxisGroups) -> Removal:
    """The same units of the groups of the same names, of a copy of the graph."""
    return {groups[group.name]: gone for group, gone in removal.items()}
