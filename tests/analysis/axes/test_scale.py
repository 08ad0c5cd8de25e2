"""The analysis grows with the depth of a network like the network itself: work is counted, not timed.

Counted are lines of `graphopt.analysis.axes` and of the axis rules that run, loops included: a walk over all bundles for each
node, or chains of unions that are never shortened, would show as squares. `python -m tools.bench_scale` measures time.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from graphopt.analysis.axes import axis_groups
from graphopt.analysis.axes.bundles import Bundles
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from tools.bench_scale import NETWORKS, network_text

LAYERS = 12
LIMIT = 1.1
"""How much more than twice as much twice the depth may take; 1 is linear, 2 would be squares."""


def _lines(graph: Graph) -> int:
    """Lines that run in the analysis of a graph."""
    count = 0

    def each_line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return each_line

    def each_call(frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_globals.get("__name__", "")
        return each_line if name.startswith(("graphopt.analysis.axes", "graphopt.ops.axes")) else None

    before = sys.gettrace()
    sys.settrace(each_call)
    try:
        axis_groups(graph)
    finally:
        sys.settrace(before)
    return count


def _grows_linearly(first: int, second: int, third: int) -> bool:
    """For n, 2n and 4n layers: twice the layers add twice as much, and something is added at all."""
    return 0 < third - second <= 2 * LIMIT * (second - first)


@pytest.fixture(scope="module", params=list(NETWORKS))
def graphs(request: pytest.FixtureRequest) -> list[Graph]:
    """The same network with n, 2n and 4n layers."""
    return [parse(network_text(request.param, LAYERS * factor)) for factor in (1, 2, 4)]


def test_work_is_linear_in_depth(graphs: list[Graph]) -> None:
    first, second, third = (_lines(graph) for graph in graphs)
    assert _grows_linearly(first, second, third), (first, second, third)


def test_what_is_kept_is_linear_in_depth(graphs: list[Graph]) -> None:
    sizes: list[tuple[int, ...]] = []
    for graph in graphs:
        bundles, groups = Bundles(graph), axis_groups(graph)
        positions = sum(len(member.units) for group in groups for member in group.members)
        sizes.append((len(bundles.values), len(bundles.uses), sum(len(group.members) for group in groups), positions, len(groups.fixed)))
        assert len(bundles.open) <= graph.node_count
    for first, second, third in zip(*sizes, strict=True):
        assert third - second == 2 * (second - first), "every layer adds the same"


def test_squares_would_be_seen() -> None:
    assert _grows_linearly(112, 212, 412)
    assert not _grows_linearly(12**2, 24**2, 48**2)
    assert not _grows_linearly(12**2 + 1000, 24**2 + 1000, 48**2 + 1000)
