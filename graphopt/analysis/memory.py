"""How much memory activations need at once.

Nodes run in the graph's order, each result gets memory of its own when its node runs and gives it back after
its last use. Inputs belong to the caller and stay, outputs stay to the end; states are counted apart.
A view (`reshape`), and dropout at inference, share the memory of their operand, which goes with the last
of them. Memory that a kernel uses for itself is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.analysis.cost import evaluate_type
from graphopt.analysis.liveness import live_ranges
from graphopt.analysis.table import counted, scaled
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops import DROPOUTS, definition, is_canonical

__all__ = ["PeakMemory", "peak_memory", "shares_memory"]


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Bytes of activations at the busiest node.

    `peak` is None when the size of some value is not known (`unknown` has their names); `known` is the peak
    of the others, a lower bound. `node` is where the peak is first reached, None for a graph without nodes.
    `inputs` is part of the peak, `weights` (parameters, buffers and constants) is not. `live` has for each
    node in order its name and the known bytes that exist while it runs.
    """

    peak: int | None
    known: int
    node: str | None
    inputs: int
    weights: int
    unknown: tuple[str, ...]
    live: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int | None:
        """Activations at their peak, and weights."""
        return None if self.peak is None else self.peak + self.weights

    def to_json(self) -> dict[str, object]:
        """The numbers as plain data, without `live`."""
        return {
            "peak": self.peak,
            "known": self.known,
            "node": self.node,
            "inputs": self.inputs,
            "weights": self.weights,
            "unknown": list(self.unknown),
        }

    def __str__(self) -> str:
        where = f" at %{self.node}" if self.node is not None else ""
        if self.peak is None:
            known = f"at least {scaled(self.known, 'B')}{where}, {counted(len(self.unknown), 'value')} of unknown size"
            return f"peak memory unknown: {known}; weights {scaled(self.weights, 'B')}"
        return f"peak memory {scaled(self.peak, 'B')}{where}, weights {scaled(self.weights, 'B')}"


def shares_memory(node: Node) -> bool:
    """True when the only result is the first operand's memory under another type."""
    if node.op in DROPOUTS:
        return node.attrs["mode"] != "train"
    return is_canonical(node.op) and definition(node.op).view


def peak_memory(graph: Graph, dims: Mapping[str, int] | None = None) -> PeakMemory:
    """Peak memory of activations; `dims` gives sizes for symbolic dimensions. Linear in the graph.

    While a node runs, its operands and results exist together with all that later nodes need; the dearer of
    its regions, if it has some, needs its own values on top.
    """
    sizes = dims or {}
    births, deaths, unknown = _events(graph, sizes)
    inputs = sum(_known_bytes(value.type, sizes) for value in graph.inputs)
    live: list[tuple[str, int]] = []
    current = inputs
    for position, node in enumerate(graph.nodes):
        current += births[position]
        live.append((node.name, current + _inside(node, births[position], sizes, unknown)))
        current -= deaths[position]
    busiest = max(live, key=lambda item: item[1], default=(None, inputs))
    weights = sum(_known_bytes(state.type, sizes) for state in graph.states.values())
    return PeakMemory(None if unknown else busiest[1], busiest[1], busiest[0], inputs, weights, tuple(unknown), tuple(live))


def _known_bytes(found: TensorType, sizes: Mapping[str, int]) -> int:
    size = evaluate_type(found, sizes).bytes
    return size if isinstance(size, int) else 0


def _events(graph: Graph, sizes: Mapping[str, int]) -> tuple[list[int], list[int], list[str]]:
    """For each node the bytes that come to life when it starts and that die when it has run, and the values
    of unknown size."""
    owners, ranges = _owners(graph), live_ranges(graph)
    ends: dict[Value, int] = {}
    for value, live in ranges.items():
        owner = owners.get(value, value)
        ends[owner] = max(ends.get(owner, -1), live.end)
    births, deaths, unknown = [0] * graph.node_count, [0] * (graph.node_count + 1), list[str]()
    for owner, end in ends.items():
        size = evaluate_type(owner.type, sizes).bytes
        if not isinstance(size, int):
            unknown.append(owner.name)
        elif owner.producer is not None:
            births[ranges[owner].start] += size
            deaths[end] += size
    return births, deaths, unknown


def _inside(node: Node, results: int, sizes: Mapping[str, int], unknown: list[str]) -> int:
    """Bytes that the dearer region needs beyond the node's results, which are its outputs' memory."""
    extra = 0
    for region in node.regions:
        inner = peak_memory(region, sizes)
        unknown.extend(f"{region.name}.{name}" for name in inner.unknown)
        extra = max(extra, inner.known - inner.inputs - results)
    return extra


def _owners(graph: Graph) -> dict[Value, Value]:
    """For each result that shares memory, the value whose memory it is; states own theirs."""
    owners: dict[Value, Value] = {}
    for node in graph.nodes:
        if shares_memory(node):
            operand = node.operands[0]
            if isinstance(operand, Value):
                owners[node.result] = owners.get(operand, operand)
    return owners
