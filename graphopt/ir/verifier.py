"""Checks the invariants of a graph that hold whatever its ops mean.

- every value has one definition, a name that is unique and registered, and is defined before it is read;
- use lists and operands say the same, in both directions; results know their producer;
- nodes form one doubly linked list of the recorded length;
- symbolic dimensions are declared, `$i` references point at operands, inputs and outputs that exist;
- everything can be written as text and read back;
- the same for every region.

`graphopt.ops.verify` adds what needs the op table: that stored types are those that the op gives.
"""

# The verifier looks at the lists behind the public views, since it is there to find them out of step.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import re
from collections.abc import Mapping

from graphopt.errors import VerifyError
from graphopt.ir.attributes import MAX_DEPTH, Attribute, Ref
from graphopt.ir.dims import Dim, Expression, symbols_of
from graphopt.ir.graph import Graph, Node, Operand, State, Value
from graphopt.ir.nodes import RESERVED_OPS
from graphopt.ir.types import TensorType

__all__ = ["verify_structure"]

_OP = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")


def verify_structure(graph: Graph) -> None:
    """Check a graph and its regions; takes time linear in their size.

    Raises:
        VerifyError: the first broken invariant, with the node.
    """
    pending: list[tuple[Graph, int, str]] = [(graph, 0, "")]
    seen: set[int] = set()
    while pending:
        current, depth, where = pending.pop()
        if id(current) in seen:
            raise VerifyError(f"graph '{current.name}' is the region of two nodes, needs one graph each", where=where)
        if depth > MAX_DEPTH:
            raise VerifyError(f"regions are nested deeper than {MAX_DEPTH}", where=where)
        seen.add(id(current))
        _Checker(current).run()
        pending.extend((region, depth + 1, repr(node)) for node in current.nodes for region in node.regions)


class _Checker:
    """One walk over one graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._defined: set[Value] = set()
        self._uses = 0
        self._tied: set[str] = set()
        self._good_types: dict[int, TensorType] = {}

    def run(self) -> None:
        """Check everything but the insides of regions."""
        graph = self._graph
        for value in graph.inputs:
            self._source_value(value, "input")
        for name, state in graph.states.items():
            self._state(name, state)
        count = self._nodes()
        if count != graph.node_count:
            raise VerifyError(f"graph '{graph.name}' records {graph.node_count} nodes and its list holds {count}")
        self._return()
        if len(graph._names) != len(self._defined):
            stale = next(name for name, value in graph._names.items() if value not in self._defined)
            raise VerifyError(f"%{stale} is registered as a name but no input, state or node defines it")
        recorded = sum(value.use_count for value in self._defined)
        if recorded != self._uses:
            self._report_stale_use()

    def _nodes(self) -> int:
        graph = self._graph
        count = 0
        previous: Node | None = None
        node = graph.first_node
        while node is not None:
            if node.graph is not graph:
                raise VerifyError(
                    f"node %{node.name} is in the list of graph '{graph.name}' but belongs to another or was erased", where=repr(node)
                )
            if node.previous is not previous or count > graph.node_count:
                raise VerifyError(f"the node list of graph '{graph.name}' is broken at %{node.name}", where=repr(node))
            self._node(node)
            count += 1
            previous, node = node, node.next
        if graph._last is not previous:
            raise VerifyError(f"graph '{graph.name}' takes %{graph._last.name if graph._last else '?'} for its last node")
        return count

    def _node(self, node: Node) -> None:
        if not _OP.match(node.op) or node.op in RESERVED_OPS:
            raise VerifyError(f"'{node.op}' can't name an op", where=repr(node), fix="use letters, digits, '_' and '.'")
        self._operands(node)
        count = len(node.operands)
        for name, value in node.attrs.items():
            if type(value) in _PLAIN:
                continue
            self._attribute(value, count, f"attribute '{name}' of %{node.name}", "operands", node)
        for index, result in enumerate(node.results):
            if result.producer is not node or result.index != index:
                raise VerifyError(f"result {index} of {node.op}, %{result.name}, names another producer or position", where=repr(node))
            self._define(result, node)

    def _operands(self, node: Node) -> None:
        for index, operand in enumerate(node.operands):
            if isinstance(operand, Value):
                if operand not in self._defined:
                    raise self._undefined(operand, node)
                if (node, index) not in operand._uses:
                    raise VerifyError(f"%{operand.name} is operand {index} of %{node.name} but does not list that use", where=repr(node))
                self._uses += 1
            elif isinstance(operand, Expression):
                self._dims((operand,), node)

    def _undefined(self, operand: Value, node: Node) -> VerifyError:
        producer = operand.producer
        if producer is not None and producer.graph is self._graph:
            return VerifyError(
                f"%{operand.name} is read before it is defined", where=repr(node), fix="insert the reader after the producer"
            )
        return VerifyError(
            f"%{operand.name} is read but no input, state or node of graph '{self._graph.name}' defines it", where=repr(node)
        )

    def _source_value(self, value: Value, kind: str) -> None:
        if value.producer is not None:
            raise VerifyError(f"{kind} %{value.name} has a producer, needs none", where=repr(value.producer))
        self._define(value, None)

    def _state(self, name: str, state: State) -> None:
        if name != state.name:
            raise VerifyError(f"state %{state.name} is registered under the name '{name}'")
        if state.kind not in ("param", "buffer", "constant"):
            raise VerifyError(f"state %{name} is a '{state.kind}', needs param, buffer or constant")
        for tied in state.tied:
            _check_text(tied, f"a tied name of state %{name}", None)
            if tied in self._graph.states or tied in self._tied:
                raise VerifyError(f"'{tied}' is tied to %{name} and the name of another state or tie as well")
            self._tied.add(tied)
        self._source_value(state.value, "state")

    def _define(self, value: Value, node: Node | None) -> None:
        if value in self._defined:
            raise VerifyError(f"%{value.name} is defined twice", where=repr(node) if node else None)
        if self._graph._names.get(value.name) is not value:
            raise VerifyError(f"the name %{value.name} is not registered, or stands for another value", where=repr(node) if node else None)
        _check_text(value.name, "a value's name", node)
        self._defined.add(value)
        if id(value.type) not in self._good_types:
            self._dims(value.type.shape, node)
            self._good_types[id(value.type)] = value.type

    def _dims(self, dims: tuple[Dim, ...], node: Node | None) -> None:
        for dim in dims:
            for name in symbols_of(dim):
                if name not in self._graph.symbols:
                    known = ", ".join(self._graph.symbols) or "none"
                    raise VerifyError(
                        f"dimension '{name}' is not declared in graph '{self._graph.name}'; declared: {known}",
                        where=repr(node) if node else None,
                    )

    def _attribute(self, value: Attribute, limit: int, what: str, counted: str, node: Node | None) -> list[int]:
        """Check references and dimensions inside a value; returns the references."""
        found: list[int] = []
        pending: list[Attribute] = [value]
        while pending:
            item = pending.pop()
            match item:
                case Ref():
                    if not 0 <= item.index < limit:
                        raise VerifyError(f"{what} has ${item.index}, and there are {limit} {counted}", where=repr(node) if node else None)
                    found.append(item.index)
                case Expression():
                    self._dims((item,), node)
                case str():
                    _check_text(item, what, node)
                case tuple() | list():
                    pending.extend(item)
                case Mapping():
                    for key in item:
                        _check_text(key, what, node)
                    pending.extend(item.values())
                case _:
                    pass
        return found

    def _return(self) -> None:
        graph = self._graph
        node = graph.return_node
        if node.graph is not graph or node.op != "return" or node.next is not None or node.previous is not None:
            raise VerifyError(f"the return node of graph '{graph.name}' is damaged")
        self._operands(node)
        structure = graph.structure
        given = self._attribute((structure.args, structure.kwargs), len(graph.inputs), "the call structure", "inputs", None)
        if sorted(given) != list(range(len(graph.inputs))):
            raise VerifyError(f"the call structure names the inputs {sorted(given)}, needs each of 0 to {len(graph.inputs) - 1} once")
        self._attribute(structure.returns, len(graph.outputs), "the return structure", "outputs", None)

    def _report_stale_use(self) -> None:
        """Some use list holds more than the operands do: find which."""
        for value in self._defined:
            for use in value.uses:
                operands: tuple[Operand, ...] = use.node.operands
                if use.node.graph is not self._graph or use.index >= len(operands) or operands[use.index] is not value:
                    raise VerifyError(
                        f"%{value.name} lists operand {use.index} of %{use.node.name} as a use, which does not read it",
                        where=repr(use.node),
                    )
        raise VerifyError(f"use lists of graph '{self._graph.name}' hold a node that is not in its list")


_PLAIN = frozenset({bool, int, float, type(None)})


def _check_text(text: str, what: str, node: Node | None) -> None:
    if text.isascii():
        return
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise VerifyError(
            f"{what}, {text!r}, holds half of a surrogate pair and can't be written as text", where=repr(node) if node else None
        )
