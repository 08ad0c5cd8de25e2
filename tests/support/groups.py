"""Axis groups written by hand, for tests that need no analysis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from graphopt.analysis.axes import AxisGroup, AxisGroups, Member, Role
from graphopt.ir.graph import Graph

__all__ = ["grouped", "hand_made_group"]

_ROLES = {role.value: role for role in Role}


def hand_made_group(
    graph: Graph, name: str, size: int, members: Sequence[tuple[str, int, str] | tuple[str, int, str, Sequence[int]]], kind: str = "channel"
) -> AxisGroup:
    """A group from (value, axis, role) or (value, axis, role, unit of each position); without units, position i is unit i."""
    made: list[Member] = []
    for value, axis, role, *rest in members:
        units = numpy.array(rest[0] if rest else range(size), dtype=numpy.int64)
        assert len(units) == graph.value(value).shape[axis], f"%{value} has {graph.value(value).shape} on axis {axis}"
        made.append(Member(graph.value(value), axis, units, _ROLES[role], "written by hand"))
    return AxisGroup(name, kind, size, tuple(made))


def grouped(*groups: AxisGroup) -> AxisGroups:
    """The groups of a graph, nothing fixed."""
    return AxisGroups(groups, ())
