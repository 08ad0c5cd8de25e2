"""What a graph costs, in the few numbers that a report compares before and after."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from graphopt.ir.graph import Graph

__all__ = ["Summary", "summarize"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Node count, floating-point operations of one run (a multiply-add is 2), elements of parameters, bytes of
    all states, and most bytes of activations alive at once. None is unknown; sizes use the smallest dynamic sizes."""

    nodes: int
    flops: int | None
    parameters: int
    weight_bytes: int
    peak_activation_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return asdict(self)


def summarize(graph: Graph) -> Summary:
    """The numbers of a graph. States that nobody reads count: they are still in the file."""
    states = [state for state in graph.states.values() if state.type.is_static]
    return Summary(
        graph.node_count,
        None,
        sum(int(str(state.type.elements)) for state in states if state.kind == "param"),
        sum(int(str(state.type.bytes)) for state in states),
        None,
    )
