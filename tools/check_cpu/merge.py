"""Several networks as one graph, side by side, so that the compiler reads its headers once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphopt.ir.graph import Graph, GraphEditor, Operand, Value

__all__ = ["Merged", "merge"]


@dataclass(frozen=True, slots=True)
class Merged:
    """One graph, and which of its outputs are each network's."""

    graph: Graph
    outputs: tuple[slice, ...]


def merge(graphs: Sequence[Graph]) -> Merged:
    """The networks in one graph; names get a prefix, symbols of the same name become one. Numbers are shared.

    Raises:
        IRError: a symbol has another range in another network.
    """
    merged = Graph("networks")
    editor = GraphEditor(merged)
    outputs: list[Operand] = []
    places: list[slice] = []
    for index, graph in enumerate(graphs):
        mapping: dict[Value, Value] = {}
        prefix = f"net{index}."
        for name, limits in graph.symbols.items():
            if merged.symbols.get(name) != limits:
                editor.add_symbol(name, limits)
        for value in graph.inputs:
            mapping[value] = editor.add_input(prefix + value.name, value.type)
        for state in graph.states.values():
            value = Value(prefix + state.name, state.type)
            mapping[state.value] = editor.add_state(replace(state, value=value, tied=(), digest=None)).value
        for node in graph.nodes:
            made = editor.insert(
                node.op,
                tuple(mapping[operand] if isinstance(operand, Value) else operand for operand in node.operands),
                node.attrs,
                tuple((prefix + result.name, result.type) for result in node.results),
                regions=tuple(region.clone() for region in node.regions),
            )
            mapping.update(zip(node.results, made.results, strict=True))
        found = [mapping[operand] if isinstance(operand, Value) else operand for operand in graph.outputs]
        places.append(slice(len(outputs), len(outputs) + len(found)))
        outputs += found
    editor.set_outputs(tuple(outputs))
    return Merged(merged, tuple(places))
