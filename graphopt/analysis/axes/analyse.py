"""From a graph to its axis groups: `axis_groups`."""

from __future__ import annotations

import difflib
import fnmatch
import gc
from collections.abc import Sequence

from graphopt.analysis.axes.bundles import Bundles, Reason
from graphopt.analysis.axes.choices import Decisions, Heads, decide
from graphopt.analysis.axes.groups import AxisGroups
from graphopt.analysis.axes.members import execution_order, make_groups
from graphopt.analysis.axes.units import UnitGroup, group_units
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph

__all__ = ["axis_groups"]


def axis_groups(graph: Graph, *, exclude: Sequence[str] = (), heads: Heads = "whole") -> AxisGroups:
    """Which positions of which axes have to be taken out together.

    `exclude` are patterns (`*` and `?` as in file names) of values that keep all their axes: names of parameters
    (`layer1.0.conv1.weight`), of nodes, or of what comes before the last dot of a parameter (`layer1.0.conv1`).
    `heads` says how attention is cut: "whole" heads, or the features "inside" every head. Time and memory are about
    linear in nodes and positions. Source of the idea: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023;
    here positions and not layers are what is grouped.

    Raises:
        UsageError: a pattern of `exclude` matches nothing.
    """
    # Nearly all that is made here stays, and looking through it again and again for garbage would cost a third.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _analyse(graph, exclude, heads)
    finally:
        if collecting:
            gc.enable()


def _analyse(graph: Graph, exclude: Sequence[str], heads: Heads) -> AxisGroups:
    bundles = Bundles(graph)
    _exclude(bundles, exclude)
    order = execution_order(graph)
    roots = list(dict.fromkeys(bundles.find(bundles.number(value, axis)) for value in order for axis in range(len(value.shape))))
    restore = bundles.snapshot()
    decisions = decide(bundles, heads)
    found, fixed = group_units(bundles, roots)
    stuck = _stuck(bundles, found, decisions)
    if stuck:
        restore()
        decide(bundles, heads, stuck)
        better, _ = group_units(bundles, roots)
        again = stuck if _units(better) > _units(found) else ()
        restore()
        decisions = decide(bundles, heads, again)
        found, fixed = group_units(bundles, roots)
    return make_groups(bundles, order, found, decisions.kinds, fixed)


def _stuck(bundles: Bundles, found: list[UnitGroup], decisions: Decisions) -> list[int]:
    """Choices by preference at axes of which all positions go together."""
    alone = {root for units in found if units.size == 1 for root, own in units.units.items() if (own == 0).all()}
    return [index for index, roots in decisions.preferred.items() if not alone.isdisjoint(roots)] if alone else []


def _units(found: list[UnitGroup]) -> int:
    return sum(units.size for units in found if units.size > 1)


def _exclude(bundles: Bundles, patterns: Sequence[str]) -> None:
    states = bundles.graph.states
    for pattern in patterns:
        names = [
            value.name
            for value in bundles.first
            if fnmatch.fnmatchcase(value.name, pattern)
            or (value.name in states and fnmatch.fnmatchcase(value.name.rpartition(".")[0], pattern))
        ]
        if not names:
            known = [value.name for value in bundles.first]
            near = difflib.get_close_matches(pattern, [*known, *(name.rpartition(".")[0] for name in known)], n=3)
            raise UsageError(
                f"nothing in graph '{bundles.graph.name}' matches exclude '{pattern}'",
                fix=f"near names: {', '.join(near)}" if near else None,
            )
        for name in names:
            bundles.fix_all(bundles.graph.value(name), Reason(f"excluded by '{pattern}'"))
