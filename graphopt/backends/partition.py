"""Cuts a graph into segments that alternate between two engines.

    %a = conv2d(...)          native 0
    %b = aten.histc(...)      foreign 0: no native form
    %c = relu(%a)             native 0: does not need %b
    %d = add(%b, %c)          native 1

Each node goes into the earliest segment that its operands allow. So every segment is convex, and there are
as few as the longest alternation of native and foreign nodes on any path makes necessary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from graphopt.ir.graph import Graph, Node, Value, operand_values

__all__ = ["Segment", "segments"]


@dataclass(slots=True)
class Segment:
    """Nodes of one engine in order; `reasons` tell for each foreign node why it is."""

    native: bool
    nodes: list[Node] = field(default_factory=list[Node])
    reasons: list[str] = field(default_factory=list[str])

    def inputs(self) -> list[Value]:
        """Values from outside that are no states, in order of first use."""
        inside = {result for node in self.nodes for result in node.results}
        found: dict[Value, None] = {}
        for node in self.nodes:
            for value in operand_values(node):
                if value not in inside and (value.producer is not None or _is_input(value, node.graph)):
                    found[value] = None
        return list(found)

    def outputs(self) -> list[Value]:
        """Results that something outside reads, the graph's return among it."""
        inside = set(self.nodes)
        return [result for node in self.nodes for result in node.results if any(user not in inside for user in result.users)]


def _is_input(value: Value, graph: Graph | None) -> bool:
    return graph is not None and value in graph.inputs


def segments(graph: Graph, refuse: Callable[[Node], str | None]) -> list[Segment]:
    """Segments in order of execution, empty ones left out. `refuse` says why a node can't be native, or None."""
    stages: dict[Value, tuple[int, bool]] = {}
    native: list[Segment] = []
    foreign: list[Segment] = []

    def earliest(node: Node, wants_native: bool) -> int:
        stage = 0
        for value in operand_values(node):
            place = stages.get(value)
            if place is not None:
                number, is_native = place
                stage = max(stage, number + 1 if wants_native and not is_native else number)
        return stage

    for node in graph.nodes:
        reason = refuse(node)
        side = native if reason is None else foreign
        stage = earliest(node, reason is None)
        while len(side) <= stage:
            side.append(Segment(reason is None))
        side[stage].nodes.append(node)
        if reason is not None:
            side[stage].reasons.append(reason)
        for result in node.results:
            stages[result] = (stage, reason is None)
    found: list[Segment] = []
    for stage in range(max(len(native), len(foreign))):
        found += [side[stage] for side in (native, foreign) if stage < len(side) and side[stage].nodes]
    return found
