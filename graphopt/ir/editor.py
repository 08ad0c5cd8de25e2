"""The primitive edits of a graph. Passes reach them through `graphopt.rewrite.Rewriter`."""

# The editor is the one friend of Graph, Node and Value that may write what they show read-only.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from graphopt.errors import IRError
from graphopt.ir.attributes import RESERVED_WORDS, Attribute
from graphopt.ir.dims import Expression, symbol
from graphopt.ir.nodes import Node, Operand, Source, Use, Value
from graphopt.ir.signature import CallStructure, Range
from graphopt.ir.state import State
from graphopt.ir.types import TensorType

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

__all__ = ["GraphEditor"]


class GraphEditor:
    """The primitive edits of a graph, each O(1) in its size. For builders and `Rewriter`, not for passes.

    `before_edit` is called before each edit; the pass manager uses it to keep a copy of the graph the
    first time a pass changes anything.
    """

    def __init__(self, graph: Graph, before_edit: Callable[[], None] | None = None) -> None:
        self._graph = graph
        self._before_edit = before_edit

    @property
    def graph(self) -> Graph:
        """The graph that is edited."""
        return self._graph

    def _touch(self) -> None:
        if self._before_edit is not None:
            self._before_edit()

    def _claim(self, value: Value) -> Value:
        name = value.name
        if not name:
            raise IRError("a value needs a name, got an empty string")
        if name in self._graph._names:
            raise IRError(f"%{name} is defined twice", fix="take a name from graph.fresh_name(hint)")
        self._graph._names[name] = value
        return value

    def add_symbol(self, name: str, limits: Range) -> Expression:
        """Declare a symbolic dimension and return it.

        Raises:
            IRError: the name is reserved, no identifier, or declared already.
        """
        self._touch()
        if not (name.isidentifier() and name.isascii()) or name in RESERVED_WORDS:
            raise IRError(f"'{name}' can't name a dimension", fix="use letters, digits and _, and none of the reserved words")
        if name in self._graph._symbols:
            raise IRError(f"dimension '{name}' is declared twice")
        self._graph._symbols[name] = limits
        return symbol(name)

    def add_input(self, name: str, type_: TensorType) -> Value:
        """Append a graph input."""
        self._touch()
        value = self._claim(Value(name, type_))
        self._graph._inputs.append(value)
        return value

    def add_state(self, state: State) -> State:
        """Add a parameter, buffer or constant; `state.value` must be fresh."""
        self._touch()
        self._claim(state.value)
        self._graph._states[state.name] = state
        return state

    def update_state(self, state: State) -> None:
        """Replace a state's record (data, ties, flags); its value and type stay.

        Raises:
            IRError: no such state, or another value.
        """
        self._touch()
        current = self._graph._states.get(state.name)
        if current is None or current.value is not state.value:
            raise IRError(f"%{state.name} is not a state of this graph, or its value was exchanged")
        self._graph._states[state.name] = state

    def exchange_state(self, state: State) -> State:
        """Put a state in the place of the one of the same name, whose readers read the new one; types may differ.

        Raises:
            IRError: no state has that name.
        """
        self._touch()
        current = self._graph._states.get(state.name)
        if current is None:
            raise IRError(f"%{state.name} is not a state of this graph")
        self._graph._states[state.name] = state
        self._graph._names[state.name] = state.value
        self.replace_uses(current.value, state.value)
        return state

    def remove_state(self, name: str) -> None:
        """Forget a state that nobody reads.

        Raises:
            IRError: it has uses.
        """
        self._touch()
        state = self._graph._states[name]
        if state.value._uses:
            raise IRError(f"%{name} still has {state.value.use_count} uses and can't be removed")
        del self._graph._states[name]
        del self._graph._names[name]

    def insert(
        self,
        op: str,
        operands: Sequence[Operand],
        attrs: Mapping[str, Attribute],
        results: Sequence[tuple[str, TensorType]],
        *,
        before: Node | None = None,
        source: Source | None = None,
        regions: Sequence[Graph] = (),
    ) -> Node:
        """Create a node before another one, or at the end; result names must be free.

        Raises:
            IRError: `before` is not in this graph, or a result name is taken.
        """
        self._touch()
        graph = self._graph
        if before is not None and before._graph is not graph:
            raise IRError(f"can't insert {op} before a node that is not in the graph", where=repr(before))
        if before is graph._return:
            before = None
        values = [Value(name, type_) for name, type_ in results]
        for value in values:
            self._claim(value)
        node = Node(op, operands, attrs, values, source or Source(), regions)
        for index, value in enumerate(values):
            value._producer = node
            value._index = index
        for index, operand in enumerate(node._operands):
            if isinstance(operand, Value):
                operand._uses[(node, index)] = None
        node._graph = graph
        node._next = before
        node._previous = graph._last if before is None else before._previous
        if node._previous is None:
            graph._first = node
        else:
            node._previous._next = node
        if before is None:
            graph._last = node
        else:
            before._previous = node
        graph._count += 1
        return node

    def erase(self, node: Node) -> None:
        """Remove a node whose results nobody reads.

        Raises:
            IRError: it is not in the graph, or a result is still used.
        """
        self._touch()
        graph = self._graph
        if node._graph is not graph or node is graph._return:
            raise IRError("can't erase a node that is not in the graph", where=repr(node))
        for result in node._results:
            if result._uses:
                raise IRError(f"can't erase %{node.name}: %{result.name} is still used by %{result.users[0].name}", where=repr(node))
        for index, operand in enumerate(node._operands):
            if isinstance(operand, Value):
                del operand._uses[(node, index)]
        for result in node._results:
            del graph._names[result.name]
        if node._previous is None:
            graph._first = node._next
        else:
            node._previous._next = node._next
        if node._next is None:
            graph._last = node._previous
        else:
            node._next._previous = node._previous
        node._graph = None
        graph._count -= 1

    def set_operand(self, node: Node, index: int, operand: Operand) -> None:
        """Make `node` read something else at position `index`."""
        self._touch()
        old = node._operands[index]
        if isinstance(old, Value):
            del old._uses[(node, index)]
        node._operands = (*node._operands[:index], operand, *node._operands[index + 1 :])
        if isinstance(operand, Value):
            operand._uses[(node, index)] = None

    def replace_uses(self, old: Value, new: Operand, *, where: Callable[[Use], bool] | None = None) -> int:
        """Make the readers of `old` read `new`; returns how many uses moved."""
        moved = 0
        for use in old.uses:
            if where is None or where(use):
                self.set_operand(use.node, use.index, new)
                moved += 1
        return moved

    def rename(self, value: Value, name: str) -> None:
        """Give a node's result or an input another free name. States keep theirs: it is torch's."""
        self._touch()
        graph = self._graph
        if value.name in graph._states:
            raise IRError(f"%{value.name} is a state, its name is the model's and stays")
        if name == value.name:
            return
        if name in graph._names:
            raise IRError(f"%{name} is taken")
        del graph._names[value.name]
        value._name = name
        graph._names[name] = value

    def set_outputs(self, outputs: Sequence[Operand], structure: CallStructure | None = None) -> None:
        """Set what the graph returns, and optionally how inputs and outputs are structured."""
        self._touch()
        node = self._graph._return
        for index, operand in enumerate(node._operands):
            if isinstance(operand, Value):
                del operand._uses[(node, index)]
        node._operands = tuple(outputs)
        for index, operand in enumerate(node._operands):
            if isinstance(operand, Value):
                operand._uses[(node, index)] = None
        if structure is not None:
            self._graph._structure = structure
