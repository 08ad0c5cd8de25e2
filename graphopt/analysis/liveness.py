"""When values are needed: what each node reads last, and from where to where each value lives.

Nodes run in the graph's order. Outputs live until the end; states are not tracked, they live for ever.

    %a = relu(%x)        # x dies here
    %b = add(%a, 1.0)
    %c = mul(%b, %a)     # a and b die here
    return %c
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.ir.graph import Graph, Node, Value, operand_values

__all__ = ["LiveRange", "last_uses", "live_ranges"]


@dataclass(frozen=True, slots=True)
class LiveRange:
    """Positions of nodes, from 0: a value exists from before node `start` (its producer; an input's is -1)
    until after node `end`. An output's end is the number of nodes."""

    start: int
    end: int

    def overlaps(self, other: LiveRange) -> bool:
        """True when both values exist at some node at the same time."""
        return self.start <= other.end and other.start <= self.end


def live_ranges(graph: Graph) -> Mapping[Value, LiveRange]:
    """Live range of each input and result, in order of definition; linear in the graph."""
    starts: dict[Value, int] = dict.fromkeys(graph.inputs, -1)
    ends: dict[Value, int] = dict(starts)
    position = 0
    for node in graph.nodes:
        for value in operand_values(node):
            if value in starts:
                ends[value] = position
        for value in node.results:
            starts[value] = ends[value] = position
        position += 1
    for value in operand_values(graph.return_node):
        if value in starts:
            ends[value] = position
    return {value: LiveRange(start, ends[value]) for value, start in starts.items()}


def last_uses(graph: Graph) -> Mapping[Node, tuple[Value, ...]]:
    """For each node the values that nobody needs once it has run, results that nobody reads among them.

    Inputs are included, outputs and states are not. Nodes after which nothing dies have no entry.
    """
    last: dict[Value, Node] = {}
    inputs = set(graph.inputs)
    for node in graph.nodes:
        for value in operand_values(node):
            if value.producer is not None or value in inputs:
                last[value] = node
        for value in node.results:
            last[value] = node
    for value in operand_values(graph.return_node):
        last.pop(value, None)
    dying: dict[Node, list[Value]] = {}
    for value, node in last.items():
        dying.setdefault(node, []).append(value)
    return {node: tuple(values) for node, values in dying.items()}
