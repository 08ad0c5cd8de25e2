"""What a graph costs to run: floating-point operations, bytes moved, parameters; per node and in total.

    node      op       result              MFLOP   read kB  written kB  parameters
    conv1     conv2d   f32[1,64,112,112]  236.03     639.6      3211.3        9408

How FLOPs are counted stands in `graphopt.ops.flops` and at each op's definition. Bytes are those that cross
the boundary of a node: each operand is read once, each result written once; a view (`reshape`) moves none;
an op that picks elements (`slice`, `embedding`) reads as many as it writes. What is not known is None, never 0.
With symbolic dimensions the numbers are expressions; give `dims` to get integers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from graphopt.analysis.table import counted, plain, scaled, text_table
from graphopt.errors import SymbolError
from graphopt.ir.attributes import evaluate_attribute
from graphopt.ir.dims import Dim, evaluate_dim, max_dim, symbol, symbols_of
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops import Call, definition, is_canonical

__all__ = ["Cost", "NodeCost", "cost", "evaluate_type"]

_PICKS = frozenset({"slice", "select", "split", "gather", "index_select", "index", "embedding"})
"""Ops that read from their first operand what they write, not all of it."""


@dataclass(frozen=True, slots=True)
class NodeCost:
    """Cost of one node. `flops`, `bytes_read` and `bytes_written` are None where they are not known;
    `parameters` is the number of elements of the parameters that it reads."""

    name: str
    op: str
    types: tuple[TensorType, ...]
    flops: Dim | None
    bytes_read: Dim | None
    bytes_written: Dim | None
    parameters: int

    @property
    def bytes(self) -> Dim | None:
        """Bytes read and written."""
        return None if self.bytes_read is None or self.bytes_written is None else self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float | None:
        """FLOPs per byte; None where either is unknown or symbolic, or no byte moves."""
        moved = self.bytes
        if not isinstance(self.flops, int) or not isinstance(moved, int) or moved == 0:
            return None
        return self.flops / moved

    def to_json(self) -> dict[str, object]:
        """The row as plain data; expressions are texts, unknown is null."""
        return {
            "name": self.name,
            "op": self.op,
            "types": [found.text for found in self.types],
            "flops": plain(self.flops),
            "bytes_read": plain(self.bytes_read),
            "bytes_written": plain(self.bytes_written),
            "parameters": self.parameters,
        }

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float | None:
        """Least time by the roofline model: the longer of computing and moving; None where not known."""
        moved = self.bytes
        if not isinstance(self.flops, int) or not isinstance(moved, int):
            return None
        return max(self.flops / flops_per_second, moved / bytes_per_second)


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a graph: its nodes in order, and totals over those that are known.

    `flops` and `bytes` add up the known nodes; `unknown` counts the nodes whose FLOPs are not known, so the
    totals are complete when it is 0. `parameters` and `parameter_bytes` are those of all parameters of the
    graph, tied ones once, unused ones too.
    """

    graph: str
    nodes: tuple[NodeCost, ...]
    parameters: int
    parameter_bytes: int

    @property
    def flops(self) -> Dim | None:
        """FLOPs of all nodes for which they are known; None where the sum can't be written out."""
        return _total(node.flops for node in self.nodes)

    @property
    def bytes(self) -> Dim | None:
        """Bytes read and written by all nodes for which they are known."""
        return _total(node.bytes for node in self.nodes)

    @property
    def unknown(self) -> int:
        """Number of nodes whose FLOPs are not known."""
        return sum(node.flops is None for node in self.nodes)

    def by_op(self) -> tuple[NodeCost, ...]:
        """One row per op, the dearest first: `name` is how often it occurs; None where one of them is."""
        rows: dict[str, list[NodeCost]] = {}
        for node in self.nodes:
            rows.setdefault(node.op, []).append(node)
        merged = [
            NodeCost(
                f"{len(group)}x",
                op,
                (),
                _complete(node.flops for node in group),
                _complete(node.bytes_read for node in group),
                _complete(node.bytes_written for node in group),
                sum(node.parameters for node in group),
            )
            for op, group in rows.items()
        ]
        return tuple(sorted(merged, key=lambda row: row.flops if isinstance(row.flops, int) else -1, reverse=True))

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """Sum of the nodes' least times by the roofline model, over those that are known."""
        times = (node.seconds(flops_per_second, bytes_per_second) for node in self.nodes)
        return sum(time for time in times if time is not None)

    @property
    def total(self) -> NodeCost:
        """The totals as one row, over the nodes that are known."""
        read, written = _total(node.bytes_read for node in self.nodes), _total(node.bytes_written for node in self.nodes)
        return NodeCost("total", "", (), self.flops, read, written, self.parameters)

    def table(self, names: Collection[str] | None = None) -> str:
        """The nodes as a text table, with a line of totals over all; `names` picks some of them."""
        return self._text(node for node in self.nodes if names is None or node.name in names)

    def op_table(self) -> str:
        """The rows of `by_op` as a text table, with a line of totals."""
        return self._text(self.by_op())

    def _text(self, rows: Iterable[NodeCost]) -> str:
        header = ("node", "op", "result", "FLOPs", "read", "written", "parameters")
        lines = [
            (
                row.name,
                row.op,
                ", ".join(found.text for found in row.types),
                scaled(row.flops),
                scaled(row.bytes_read, "B"),
                scaled(row.bytes_written, "B"),
                scaled(row.parameters) if row.parameters else "",
            )
            for row in rows
        ]
        return "\n".join((*text_table(header, lines, right=frozenset({3, 4, 5, 6})), self.summary()))

    def to_json(self) -> dict[str, object]:
        """Nodes and totals as plain data; expressions are texts, unknown is null."""
        return {
            "graph": self.graph,
            "nodes": [node.to_json() for node in self.nodes],
            "total": self.total.to_json(),
            "unknown": self.unknown,
        }

    def summary(self) -> str:
        """One line: nodes, FLOPs, bytes, parameters, and how many nodes are not counted."""
        are = "is" if self.unknown == 1 else "are"
        missing = f"; {counted(self.unknown, 'node')} with unknown FLOPs {are} not counted" if self.unknown else ""
        return (
            f"{counted(len(self.nodes), 'node')}, {scaled(self.flops)} FLOPs, {scaled(self.bytes, 'B')} moved, "
            f"{scaled(self.parameters)} parameters ({scaled(self.parameter_bytes, 'B')}){missing}"
        )


def cost(graph: Graph, dims: Mapping[str, int] | None = None) -> Cost:
    """Cost of each node and of the whole graph.

    `dims` gives sizes for symbolic dimensions; those without one stay symbolic.
    A node with regions costs as much as the dearer of them.
    """
    params = [state.type for state in graph.states.values() if state.kind == "param"]
    elements = [found.elements for found in params]
    sizes = [found.bytes for found in params]
    return Cost(
        graph.name,
        tuple(_node_cost(node, graph, dims or {}) for node in graph.nodes),
        sum(size for size in elements if isinstance(size, int)),
        sum(size for size in sizes if isinstance(size, int)),
    )


def evaluate_type(found: TensorType, dims: Mapping[str, int]) -> TensorType:
    """The type with known symbols replaced by sizes; others stay, a sparsity annotation goes."""
    return TensorType(found.dtype, tuple(_evaluate(dim, dims) for dim in found.shape))


def _evaluate(dim: Dim, dims: Mapping[str, int]) -> Dim:
    if isinstance(dim, int) or not dims:
        return dim
    values: dict[str, Dim] = {name: dims.get(name, symbol(name)) for name in symbols_of(dim)}
    return evaluate_dim(dim, values)


def _node_cost(node: Node, graph: Graph, dims: Mapping[str, int]) -> NodeCost:
    operands = tuple(evaluate_type(o.type, dims) if isinstance(o, Value) else o for o in node.operands)
    results = tuple(evaluate_type(result.type, dims) for result in node.results)
    known = {name: dims.get(name, symbol(name)) for name in graph.symbols}
    attrs = {name: evaluate_attribute(value, known) for name, value in node.attrs.items()} if known else node.attrs
    params = {o.name: o.type.elements for o in node.operands if isinstance(o, Value) and _is_param(graph, o)}
    read, written = _traffic(node, operands, results)
    counted = NodeCost(
        node.name,
        node.op,
        results,
        _guarded(lambda: definition(node.op).flops(Call(node.op, operands, attrs, node.regions), results))
        if is_canonical(node.op)
        else None,
        read,
        written,
        sum(size for size in params.values() if isinstance(size, int)),
    )
    return _with_regions(counted, node, dims) if node.regions else counted


def _is_param(graph: Graph, value: Value) -> bool:
    state = graph.states.get(value.name)
    return state is not None and state.value is value and state.kind == "param"


def _traffic(node: Node, operands: tuple[object, ...], results: tuple[TensorType, ...]) -> tuple[Dim | None, Dim | None]:
    """Bytes read and written."""
    if is_canonical(node.op) and definition(node.op).view:
        return 0, 0
    written = _guarded(lambda: sum_dims(result.bytes for result in results))
    types = [operand for operand in operands if isinstance(operand, TensorType)]
    if node.op in _PICKS:
        return _guarded(lambda: sum_dims((*(found.bytes for found in types[1:]), *(result.bytes for result in results)))), written
    return _guarded(lambda: sum_dims(found.bytes for found in types)), written


def _with_regions(counted: NodeCost, node: Node, dims: Mapping[str, int]) -> NodeCost:
    """Add the dearer region's cost to the node's own; unknown where a region has an unknown node."""
    inner = [cost(region, dims) for region in node.regions]

    def dearest(measure: Callable[[Cost], Dim | None]) -> Dim | None:
        sizes = [measure(region) for region in inner]
        found: Dim = 0
        for size in sizes:
            if size is None:
                return None
            found = max_dim(found, size) if found != 0 else size
        return found

    flops = dearest(lambda region: None if region.unknown else region.flops)
    read = dearest(lambda region: _complete(n.bytes_read for n in region.nodes))
    written = dearest(lambda region: _complete(n.bytes_written for n in region.nodes))
    return replace(counted, flops=flops, bytes_read=read, bytes_written=written)


def sum_dims(dims: Iterable[Dim]) -> Dim:
    """The sum of some dimensions; 0 for none."""
    total: Dim = 0
    for dim in dims:
        total = total + dim
    return total


def _guarded(compute: Callable[[], Dim]) -> Dim | None:
    """The result, or None where a symbolic expression would grow beyond what the IR can hold."""
    try:
        return compute()
    except SymbolError:
        return None


def _total(parts: Iterable[Dim | None]) -> Dim | None:
    """Sum of what is known."""
    return _guarded(lambda: sum_dims(part for part in parts if part is not None))


def _complete(parts: Iterable[Dim | None]) -> Dim | None:
    """Sum of all, None where one is not known."""
    found = list(parts)
    return None if any(part is None for part in found) else _total(found)
