"""Which positions of which axes stay when units are removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

from graphopt.analysis.axes.groups import AxisGroups, Removal
from graphopt.errors import PassError
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Value

__all__ = ["KeptPositions", "Mask"]

Mask: TypeAlias = "NDArray[numpy.bool_]"
"""For each position of an axis: True where it stays."""


class KeptPositions:
    """A removal seen from the values: for each axis that loses positions, those that stay.

    Raises:
        PassError: a mask does not fit its group, a group is not one of `groups`, or an axis would lose all positions.
    """

    def __init__(self, groups: AxisGroups, removal: Removal) -> None:
        self._masks: dict[Value, dict[int, Mask]] = {}
        known = frozenset(groups)
        for group, gone in removal.items():
            if group not in known:
                raise PassError(f"group {group.name} is not one of this graph's", fix="analyse the graph again after every edit")
            if gone.shape != (group.size,):
                raise PassError(f"the removal from group {group.name} has {gone.size} entries, the group has {group.size} units")
            if not gone.any():
                continue
            padded = numpy.append(gone.astype(bool), False)  # unit -1 is nobody's and stays
            for member in group.members:
                lost = padded[member.units]
                if lost.any():
                    masks = self._masks.setdefault(member.value, {})
                    masks[member.axis] = masks[member.axis] & ~lost if member.axis in masks else ~lost
        for value, masks in self._masks.items():
            for axis, mask in masks.items():
                if not mask.any():
                    raise PassError(f"nothing would be left of axis {axis} of {value!r}", fix="keep at least one unit of each group")

    def __contains__(self, value: object) -> bool:
        return value in self._masks

    @property
    def values(self) -> Mapping[Value, Mapping[int, Mask]]:
        """For each value that changes: its axes and what stays of them."""
        return self._masks

    def mask(self, value: Value, axis: int) -> Mask | None:
        """What stays of an axis; None where all of it does."""
        return self._masks.get(value, {}).get(axis)

    def shape(self, value: Value) -> tuple[Dim, ...]:
        """The shape that a value has afterwards."""
        masks = self._masks.get(value, {})
        return tuple(int(masks[axis].sum()) if axis in masks else dim for axis, dim in enumerate(value.shape))
