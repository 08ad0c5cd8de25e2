"""Axis groups as text, for people and golden tests.

    2 axis groups of net
    group conv1  64 channel units
      %conv1.weight  axis 0  written  rows of conv2d %conv1
      %conv1         axis 1  carried  channels of conv2d %conv1
      %conv2.weight  axis 1  read     columns of conv2d %conv2
    ...
    fixed
      %fc.weight  axis 0  it is an axis of the output %fc

Behind the axis stands how its positions fall to the units, where that is not one each: `64 each`, `32 of 96`
(the others belong to other groups or stay), `32 of 96, 2 each`.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy

from graphopt.analysis.axes.groups import AxisGroup, AxisGroups, Member
from graphopt.analysis.table import counted
from graphopt.ir.graph import Graph

__all__ = ["positions_text", "show_groups"]


def show_groups(graph: Graph, groups: AxisGroups, *, names: Collection[str] | None = None) -> str:
    """All groups with their members, sizes and reasons, then the parameter axes that can't be cut; deterministic.

    With `names` only the groups of these names, and nothing of what is fixed.
    """
    lines = [f"{counted(len(groups), 'axis group')} of {graph.name}"] if names is None else []
    for group in groups:
        if names is None or group.name in names:
            lines += _group_lines(group)
    if names is None and groups.fixed:
        lines.append("fixed")
        rows = [(f"%{fixed.value.name}", f"axis {fixed.axis}", fixed.reason) for fixed in groups.fixed]
        lines += _aligned(rows)
    return "\n".join(lines) + "\n"


def positions_text(member: Member, size: int) -> str:
    """How the positions of a member fall to the `size` units of its group; empty where each has one and none is left over."""
    owned = member.units[member.units >= 0]
    counts = numpy.bincount(owned, minlength=size)
    low, high = int(counts.min()), int(counts.max())
    each = "" if (low, high) == (1, 1) else f"{low} each" if low == high else f"{low} to {high} each"
    part = "" if len(owned) == len(member.units) else f"{len(owned)} of {len(member.units)}"
    return ", ".join(text for text in (part, each) if text)


def _group_lines(group: AxisGroup) -> list[str]:
    head = f"group {group.name}  {counted(group.size, f'{group.kind} unit')}"
    if group.renormalised:
        more = f" and {len(group.renormalised) - 3} more" if len(group.renormalised) > 3 else ""
        head += f", renormalised by {', '.join(f'%{name}' for name in group.renormalised[:3])}{more}"
    rows: list[tuple[str, ...]] = []
    for member in group.members:
        positions = positions_text(member, group.size)
        axis = f"axis {member.axis}" + (f" ({positions})" if positions else "")
        rows.append((f"%{member.value.name}", axis, member.role.value, member.reason))
    return [head, *_aligned(rows)]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return ["  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]) for row in rows]
