"""Graph, Node, Value and State: the whole data model.

    graph tiny(%x: f32[batch,3,8,8]) where batch in [1, 64] {
      param %conv.weight: f32[4,3,3,3]
      %conv: f32[batch,4,6,6] = conv2d(%x, %conv.weight, none) {dilation=(1, 1), groups=1, ...}
      %relu: f32[batch,4,6,6] = relu(%conv)
      return %relu
    }

- A `Value` is defined once: as a graph input, as a state (parameter, buffer, constant) or as the
  result of a node. It has a type that never changes and knows its uses.
- A `Node` has an op name, operands (values or literals: `mul(%x, 0.5)`), attributes, results.
- A `State` has the name that it has in torch's `state_dict`, and its numbers as `Data`.

Values and nodes are compared by identity. Types and attributes are frozen. A graph is changed only
through `GraphEditor`, and passes reach that through `graphopt.rewrite.Rewriter`; every edit is O(1) in
the size of the graph. Nodes are kept in execution order in a doubly linked list.
"""

# Graph keeps its nodes in a linked list and so walks links that nodes and values show read-only.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from graphopt.errors import IRError
from graphopt.ir.editor import GraphEditor
from graphopt.ir.nodes import Node, Operand, Source, Use, Value, operand_values
from graphopt.ir.signature import CallStructure, Range
from graphopt.ir.state import State, StateKind

if TYPE_CHECKING:
    from pathlib import Path

    import torch

__all__ = [
    "CallStructure",
    "Graph",
    "GraphEditor",
    "Node",
    "Operand",
    "Range",
    "Source",
    "State",
    "StateKind",
    "Use",
    "Value",
    "operand_values",
]


class Graph:
    """A network: inputs, states, nodes in execution order, outputs.

    Iterate over `graph.nodes`; edit through `graphopt.rewrite.Rewriter`. `str(graph)` is the IR text.
    Two graphs are equal when their texts are: same names, types, ops and attributes (numbers of the
    states and source lines are not compared).
    """

    def __init__(self, name: str = "graph") -> None:
        self._name = name
        self._inputs: list[Value] = []
        self._states: dict[str, State] = {}
        self._symbols: dict[str, Range] = {}
        self._names: dict[str, Value] = {}
        self._suffixes: dict[str, int] = {}
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0
        self._return = Node("return", (), {}, (), Source())
        self._return._graph = self
        self._structure: CallStructure | None = None

    @property
    def name(self) -> str:
        """Name of the network, for people."""
        return self._name

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The flat inputs, in order."""
        return tuple(self._inputs)

    @property
    def outputs(self) -> tuple[Operand, ...]:
        """The flat outputs, in order: operands of the `return` node."""
        return self._return.operands

    @property
    def return_node(self) -> Node:
        """The pseudo-node whose operands are the outputs; it is not among `nodes`."""
        return self._return

    @property
    def states(self) -> Mapping[str, State]:
        """Parameters, buffers and constants by name, unused ones among them, in the model's order."""
        return MappingProxyType(self._states)

    @property
    def symbols(self) -> Mapping[str, Range]:
        """Symbolic dimensions with the sizes they may take."""
        return MappingProxyType(self._symbols)

    @property
    def structure(self) -> CallStructure:
        """How inputs are given to `forward` and how outputs come back."""
        return self._structure or CallStructure.default(len(self._inputs), len(self._return.operands))

    @property
    def has_default_structure(self) -> bool:
        """True when inputs are positional and outputs a tensor or tuple of tensors."""
        return self.structure == CallStructure.default(len(self._inputs), len(self._return.operands))

    @property
    def nodes(self) -> Iterator[Node]:
        """Nodes in execution order. The current node may be erased or replaced while iterating."""
        node = self._first
        while node is not None:
            following = node._next
            yield node
            # A replaced node's follower may itself have been erased by the loop body: then walk on from
            # wherever the list now continues.
            if node._graph is self:
                node = node._next
            else:
                node = following if following is None or following._graph is self else self._resume(following)

    def _resume(self, erased: Node) -> Node | None:
        node: Node | None = erased
        while node is not None and node._graph is not self:
            node = node._next
        return node

    @property
    def reversed_nodes(self) -> Iterator[Node]:
        """Nodes from last to first. The current node may be erased while iterating."""
        node = self._last
        while node is not None:
            preceding = node._previous
            yield node
            node = node._previous if node._graph is self else preceding

    @property
    def node_count(self) -> int:
        """Number of nodes, without `return`."""
        return self._count

    @property
    def first_node(self) -> Node | None:
        """The node that runs first."""
        return self._first

    def value(self, name: str) -> Value:
        """The value called `name`.

        Raises:
            IRError: there is none; the message lists near names.
        """
        found = self._names.get(name)
        if found is None:
            import difflib

            near = difflib.get_close_matches(name, self._names, n=3)
            raise IRError(
                f"graph '{self._name}' has no value %{name}", fix=f"near names: {', '.join('%' + n for n in near)}" if near else None
            )
        return found

    def has_value(self, name: str) -> bool:
        """True when some input, state or result is called `name`."""
        return name in self._names

    @property
    def values(self) -> Iterator[Value]:
        """All values: inputs, states, then results in execution order."""
        yield from self._inputs
        for state in self._states.values():
            yield state.value
        for node in self.nodes:
            yield from node.results

    def state_of(self, operand: Operand) -> State | None:
        """The state behind an operand, or None when it is not a parameter, buffer or constant."""
        if not isinstance(operand, Value) or operand.producer is not None:
            return None
        state = self._states.get(operand.name)
        return state if state is not None and state.value is operand else None

    def fresh_name(self, hint: str) -> str:
        """`hint`, or `hint_1`, `hint_2`, ... : the first that no value has. Amortised O(1)."""
        if hint not in self._names:
            return hint
        number = self._suffixes.get(hint, 0) + 1
        while f"{hint}_{number}" in self._names:
            number += 1
        self._suffixes[hint] = number
        return f"{hint}_{number}"

    def clone(self, mapping: dict[Value, Value] | None = None) -> Graph:
        """A copy that can be edited on its own; names are the same and the numbers are shared.

        `mapping`, where given, is filled with this graph's values and their counterparts in the copy.
        """
        # Everything made here stays alive, and looking through it again and again for garbage would cost more
        # than the copy of a large graph itself.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._clone(mapping)
        finally:
            if collecting:
                gc.enable()

    def _clone(self, mapping: dict[Value, Value] | None) -> Graph:
        copy = Graph(self._name)
        editor = GraphEditor(copy)
        mapping = {} if mapping is None else mapping
        for name, limits in self._symbols.items():
            editor.add_symbol(name, limits)
        for value in self._inputs:
            mapping[value] = editor.add_input(value.name, value.type)
        for state in self._states.values():
            mapping[state.value] = editor.add_state(replace(state, value=Value(state.name, state.type))).value
        for node in self.nodes:
            created = editor.insert(
                node.op,
                tuple(mapping[o] if isinstance(o, Value) else o for o in node.operands),
                node.attrs,
                tuple((r.name, r.type) for r in node.results),
                source=node.source,
                regions=tuple(region.clone() for region in node.regions),
            )
            mapping.update(zip(node.results, created.results, strict=True))
        editor.set_outputs(tuple(mapping[o] if isinstance(o, Value) else o for o in self.outputs))
        copy._structure = self._structure
        return copy

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        from graphopt.ir.printer import show

        return self is other or show(self) == show(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # graphs change; hash their text instead

    def __str__(self) -> str:
        from graphopt.ir.printer import show

        return show(self)

    def __repr__(self) -> str:
        return f"<Graph {self._name}: {self._count} nodes, {len(self._states)} states>"

    def save(self, path: str | Path) -> None:
        """Write the graph to a folder: text, weights in safetensors, manifest. See `graphopt.ir.store`."""
        from graphopt.ir.store import save_graph

        save_graph(self, path)

    def to_module(self) -> torch.nn.Module:
        """A trainable `torch.nn.Module` with the original parameter names. See `graphopt.capture.module`."""
        from graphopt.capture.module import to_module

        return to_module(self)

    def to_python(self, path: str | Path) -> None:
        """Write readable PyTorch source and safetensors. See `graphopt.capture.source`."""
        from graphopt.capture.source import to_python

        to_python(self, path)
