"""Axis dependency analysis: what has to be cut together. See `graphopt.analysis.axes.groups` and `.analyse`."""

from __future__ import annotations

from graphopt.analysis.axes.analyse import axis_groups
from graphopt.analysis.axes.groups import AxisGroup, AxisGroups, Fixed, Member, Removal, Role, Units
from graphopt.analysis.axes.text import show_groups

__all__ = ["AxisGroup", "AxisGroups", "Fixed", "Member", "Removal", "Role", "Units", "axis_groups", "show_groups"]
