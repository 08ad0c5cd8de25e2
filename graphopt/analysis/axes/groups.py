"""Axis groups: which positions of which axes have to be taken out together.

    group layer1.0.conv1  64 units, 1 position each
      %layer1.0.conv1.weight   axis 0   written    rows of conv2d %layer1.0.conv1
      %layer1.0.conv1          axis 1   carried    channels of conv2d %layer1.0.conv1
      %layer1.0.bn1.weight     axis 0   scaled     batch_norm %layer1.0.bn1
      %layer1.0.conv2.weight   axis 1   read       columns of conv2d %layer1.0.conv2

A *unit* is the least that can go: a channel with everything that belongs to it, a neuron, an attention head. A *group*
is a set of units that live on the same axes and so compete with each other. Taking some units of a group out of all
its members leaves a graph whose types still fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

from graphopt.analysis.table import counted
from graphopt.ir.graph import Value

__all__ = ["AxisGroup", "AxisGroups", "Fixed", "Member", "Removal", "Role", "Units"]

Units: TypeAlias = "NDArray[numpy.int64]"
"""For each position of an axis: the unit that it belongs to, -1 where it belongs to none of the group."""

Removal: TypeAlias = "Mapping[AxisGroup, NDArray[numpy.bool_]]"
"""What to take out: for some groups a mask over their units, True where a unit goes."""


class Role(Enum):
    """What a member does with the positions of its axis."""

    WRITTEN = "written"
    """A weight (or bias) whose positions make the units: rows of the layer that computes them."""
    READ = "read"
    """A weight whose positions multiply the units: columns of a layer that reads them."""
    SCALED = "scaled"
    """A state that acts on each unit by itself: scale, shift and statistics of norms, depthwise weights, layer scales."""
    CARRIED = "carried"
    """A value that is computed at run time."""


@dataclass(frozen=True, slots=True)
class Member:
    """One axis of one value, and which of its positions belong to which unit.

    `reason` says why it is coupled to the rest, in words for the user: "added to %layer1.0.conv2 by %add_1".
    """

    value: Value
    axis: int
    units: Units
    role: Role
    reason: str


@dataclass(frozen=True, eq=False)
class AxisGroup:
    """Units that live on the same axes. Compared by identity.

    `name` is that of the layer that computes the first member at run time; unique among the groups of a graph and
    the same for equal graphs. `kind` is "channel" (outputs of convolutions), "neuron" (of linear layers), "head"
    (whole attention heads), "feature" (inside heads) or "embedding". `members` come in execution order, states
    beside their nodes. A value may be in it with several axes (a weight that is both written and read).
    `renormalised` are the nodes that average or normalise over an axis of the group, so that even units of zeros have
    a say in their results; where there are none, taking out units that are zero leaves the output unchanged.
    """

    name: str
    kind: str
    size: int
    members: tuple[Member, ...]
    renormalised: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<AxisGroup {self.name}: {counted(self.size, f'{self.kind} unit')}, {counted(len(self.members), 'member')}>"


@dataclass(frozen=True, slots=True)
class Fixed:
    """An axis of a parameter that can't be cut, and why; `where` is the node that forbids it, if one does."""

    value: Value
    axis: int
    reason: str
    where: str = ""


class AxisGroups:
    """All groups of one graph, in execution order, and the parameter axes that can't be cut with their reasons.

    It belongs to the graph as it was: after an edit, analyse again.
    """

    def __init__(self, groups: tuple[AxisGroup, ...], fixed: tuple[Fixed, ...]) -> None:
        self.groups = groups
        self.fixed = fixed
        self._by_name = {group.name: group for group in groups}
        self._members: dict[tuple[Value, int], list[tuple[AxisGroup, Member]]] = {}
        for group in groups:
            for member in group.members:
                self._members.setdefault((member.value, member.axis), []).append((group, member))

    def __iter__(self) -> Iterator[AxisGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> AxisGroup:
        return self._by_name[name]

    def of(self, value: Value, axis: int) -> tuple[tuple[AxisGroup, Member], ...]:
        """The groups that have positions on an axis: none where it can't be cut, several on a concatenation."""
        return tuple(self._members.get((value, axis), ()))
