"""What a graph costs, in the few numbers that a report compares before and after."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from graphopt.analysis.cost import cost
from graphopt.analysis.memory import peak_memory
from graphopt.ir.graph import Graph
from graphopt.pipeline.probes import probe_dims

__all__ = ["Summary", "summarize"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Node count, floating-point operations of one run (a multiply-add is 2), elements of parameters, bytes of
    all states, and most bytes of activations alive at once.

    None is unknown: some node's cost is not known, and a sum without it would mislead. Symbolic dimensions count
    with their smallest useful sizes (`graphopt.pipeline.probes`). States that nobody reads count: they are in
    the file.
    """

    nodes: int
    flops: int | None
    parameters: int
    weight_bytes: int
    peak_activation_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return asdict(self)


def summarize(graph: Graph) -> Summary:
    """The numbers of a graph."""
    dims = probe_dims(graph)
    costs, memory = cost(graph, dims), peak_memory(graph, dims)
    flops = costs.flops if costs.unknown == 0 else None
    return Summary(graph.node_count, flops if isinstance(flops, int) else None, costs.parameters, memory.weights, memory.peak)
