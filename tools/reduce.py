"""Makes a graph smaller while something about it stays true: a reproduction of a few nodes from a whole network.

    a prefix      values far above the failing node become inputs
    outputs       only those that the failure needs are returned
    nodes         one by one: the result becomes an input, or is replaced by an operand of the same type

Only whole nodes go; shapes stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from graphopt.errors import GraphoptError
from graphopt.ir.graph import Graph, GraphEditor, Node, Operand, Value, operand_values
from graphopt.ops import verify

__all__ = ["extract", "reduce_graph"]


def extract(graph: Graph, kept: Collection[Node], outputs: Sequence[Operand], aliases: dict[Value, Operand] | None = None) -> Graph:
    """A graph of just these nodes: what they read and nobody in it computes becomes an input, unread inputs and states go.

    `aliases` says what is read in the place of a value.
    """
    aliases = aliases or {}
    copy = Graph(graph.name)
    editor = GraphEditor(copy)
    for name, limits in graph.symbols.items():
        editor.add_symbol(name, limits)
    order = [node for node in graph.nodes if node in kept]
    mapping: dict[Value, Value] = {}
    computed = {result for node in order for result in node.results}
    needed = [operand for operand in _read(order, outputs, aliases) if operand not in computed]
    for value in needed:
        if graph.state_of(value) is None:
            mapping[value] = editor.add_input(value.name, value.type)
    for value in needed:
        state = graph.state_of(value)
        if state is not None:
            mapping[value] = editor.add_state(replace(state, value=Value(value.name, value.type))).value

    def renamed(operand: Operand) -> Operand:
        end = _end(operand, aliases)
        return mapping[end] if isinstance(end, Value) else end

    for node in order:
        results = tuple((result.name, result.type) for result in node.results)
        made = editor.insert(node.op, [renamed(o) for o in node.operands], node.attrs, results, source=node.source, regions=node.regions)
        mapping.update(zip(node.results, made.results, strict=True))
    editor.set_outputs([renamed(output) for output in outputs])
    return copy


def reduce_graph(graph: Graph, fails: Callable[[Graph], bool], *, near: str | None = None) -> Graph:
    """The smallest graph that still fails, as far as removing nodes gets; `near` names a value close to the failure."""

    def holds(candidate: Graph) -> bool:
        try:
            verify(candidate)
        except GraphoptError:
            return False
        return fails(candidate)

    graph = _around(graph, holds, near) or graph
    graph = _fewer_outputs(graph, holds)
    shrinking = True
    while shrinking:
        size = graph.node_count
        graph = _cut(graph, holds)
        graph = _bypass(graph, holds)
        graph = _fewer_outputs(graph, holds)
        shrinking = graph.node_count < size
    return graph


def _around(graph: Graph, holds: Callable[[Graph], bool], near: str | None) -> Graph | None:
    """The smallest neighbourhood of a value, by steps upwards and downwards, that still fails."""
    if near is None or not graph.has_value(near) or graph.value(near).producer is None:
        return None
    center = graph.value(near).producer
    assert center is not None, "checked above"
    kept = {center}
    while len(kept) < graph.node_count:
        candidate = extract(graph, kept, _leaving(graph, kept))
        if holds(candidate):
            return candidate
        grown = set(kept)
        for node in kept:
            grown.update(operand.producer for operand in operand_values(node) if operand.producer is not None)
            grown.update(user for result in node.results for user in result.users if not user.is_return)
        if grown == kept:
            return None
        kept = grown
    return None


def _leaving(graph: Graph, kept: Collection[Node]) -> list[Operand]:
    """Results of kept nodes that something outside reads, or nothing at all."""
    return [
        result
        for node in graph.nodes
        if node in kept
        for result in node.results
        if not result.use_count or any(user not in kept for user in result.users)
    ]


def _fewer_outputs(graph: Graph, holds: Callable[[Graph], bool]) -> Graph:
    outputs = list(graph.outputs)
    for output in list(outputs):
        fewer = [other for other in outputs if other is not output]
        if fewer and holds(_live(graph, fewer)):
            outputs = fewer
    return _live(graph, outputs) if len(outputs) < len(graph.outputs) else graph


def _live(graph: Graph, outputs: Sequence[Operand], aliases: dict[Value, Operand] | None = None) -> Graph:
    """The part of the graph that the outputs depend on."""
    aliases = aliases or {}
    kept: set[Node] = set()
    pending = [end.producer for output in outputs if isinstance(end := _end(output, aliases), Value) and end.producer is not None]
    while pending:
        node = pending.pop()
        if node not in kept:
            kept.add(node)
            ends = (_end(operand, aliases) for operand in node.operands)
            pending.extend(end.producer for end in ends if isinstance(end, Value) and end.producer is not None)
    return extract(graph, kept, outputs, aliases)


def _cut(graph: Graph, holds: Callable[[Graph], bool]) -> Graph:
    """Remove nodes from the top: half of them, a quarter, ... one by one; their results become inputs."""
    step = max(1, graph.node_count // 2)
    while True:
        index = 0
        while index < graph.node_count:
            nodes = list(graph.nodes)
            gone = set(nodes[index : index + step])
            kept = {node for node in nodes if node not in gone}
            outputs = [o for o in graph.outputs if not (isinstance(o, Value) and o.producer in gone)]
            candidate = extract(graph, kept, outputs or _leaving(graph, kept)) if kept else None
            if candidate is not None and candidate.outputs and holds(candidate):
                graph = candidate
            else:
                index += step
        if step == 1:
            return graph
        step //= 2


def _bypass(graph: Graph, holds: Callable[[Graph], bool]) -> Graph:
    """Replace the result of a node by an operand of the same type."""
    for name in [node.name for node in graph.nodes if len(node.results) == 1]:
        if not graph.has_value(name):
            continue
        value = graph.value(name)
        node = value.producer
        same = [o for o in operand_values(node) if o.type == value.type] if node is not None else []
        for operand in same:
            candidate = _live(graph, graph.outputs, {value: operand})
            if holds(candidate):
                graph = candidate
                break
    return graph


def _read(nodes: Sequence[Node], outputs: Sequence[Operand], aliases: dict[Value, Operand]) -> Iterable[Value]:
    """Everything that is read, each once, in order."""
    read: dict[Value, None] = {}
    for operand in (*(operand for node in nodes for operand in node.operands), *outputs):
        end = _end(operand, aliases)
        if isinstance(end, Value):
            read[end] = None
    return read


def _end(operand: Operand, aliases: dict[Value, Operand]) -> Operand:
    while isinstance(operand, Value) and operand in aliases:
        operand = aliases[operand]
    return operand
