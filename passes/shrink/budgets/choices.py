"""The widths that each group may get, and the units that go for a width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from graphopt.analysis.axes.groups import AxisGroup, AxisGroups, Member, Removal
from graphopt.ir.graph import Graph, Value
from graphopt.passes.shrink.selection import width_step
from graphopt.rewrite.cut import CutRecord, cut
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["Choice", "least_important", "mapped", "narrowed", "widths_of"]

_MOST = 24
"""Widths of one group that a search looks at; a group of 2048 channels has 256 in steps of 8."""


@dataclass(frozen=True, eq=False)
class Choice:
    """A group and the widths, in units, that it may get: narrower ones, widest first. Compared by identity."""

    group: AxisGroup
    widths: tuple[int, ...]

    def nearest(self, fraction: float) -> int:
        """The width that is nearest to a fraction of the group."""
        return min(self.widths, key=lambda width: (abs(width - fraction * self.group.size), -width))


def widths_of(group: AxisGroup, multiple_of: int, least: float) -> tuple[int, ...]:
    """Widths below the present one that keep axes of weights multiples of `multiple_of` and at least `least` of the
    units, widest first; evenly thinned out where there are many."""
    step = width_step(group, multiple_of)
    lowest = max(step, -(-round(least * group.size) // step) * step)
    found = list(range((group.size - 1) // step * step, lowest - 1, -step))
    if len(found) > _MOST:
        found = [found[round(index * (len(found) - 1) / (_MOST - 1))] for index in range(_MOST)]
    return tuple(found)


def least_important(scores: NDArray[numpy.float64], width: int) -> NDArray[numpy.bool_]:
    """A mask of the units that go so that `width` of them stay; of equal scores the first goes."""
    gone = numpy.zeros(len(scores), dtype=bool)
    gone[numpy.argsort(scores, kind="stable")[: len(scores) - width]] = True
    return gone


def mapped(groups: Sequence[AxisGroup], values: Mapping[Value, Value]) -> dict[AxisGroup, AxisGroup]:
    """The groups of a copy of the graph: those of the original, with its values in the place of the original's."""
    copies: dict[AxisGroup, AxisGroup] = {}
    for group in groups:
        members = tuple(
            Member(values[member.value], member.axis, member.units, member.role, member.reason)
            for member in group.members
            if member.value in values
        )
        copies[group] = AxisGroup(group.name, group.kind, group.size, members)
    return copies


def narrowed(graph: Graph, removal: Removal) -> tuple[Graph, CutRecord]:
    """A copy of the graph without the units, which belong to groups of `graph`."""
    values: dict[Value, Value] = {}
    copy = graph.clone(values)
    copies = mapped(list(removal), values)
    record = cut(Rewriter(copy), AxisGroups(tuple(copies.values()), ()), {copies[group]: gone for group, gone in removal.items()})
    return copy, record
