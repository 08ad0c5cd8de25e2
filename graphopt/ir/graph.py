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

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

from graphopt.errors import IRError
from graphopt.ir.attributes import RESERVED_WORDS, Attribute, Ref, freeze_attribute
from graphopt.ir.data import Data
from graphopt.ir.dims import Dim, Expression
from graphopt.ir.types import TensorType

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


@dataclass(frozen=True, slots=True)
class Source:
    """Where a node came from: module path in the user's model, file and line of the user's code."""

    module: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else ""
        return f"{place} ({self.module})" if place and self.module else place or self.module or "unknown source"


@dataclass(frozen=True, slots=True)
class Range:
    """Sizes that a symbolic dimension may take, both ends included; `maximum` None is unbounded."""

    minimum: int = 0
    maximum: int | None = None

    def __contains__(self, size: int) -> bool:
        return self.minimum <= size and (self.maximum is None or size <= self.maximum)

    def __str__(self) -> str:
        return f"[{self.minimum}, {'inf' if self.maximum is None else self.maximum}]"


class Value:
    """A tensor that exists once when the graph runs: an input, a state, or the result of a node."""

    __slots__ = ("_index", "_name", "_producer", "_type", "_uses")

    def __init__(self, name: str, type_: TensorType) -> None:
        self._name = name
        self._type = type_
        self._producer: Node | None = None
        self._index = 0
        self._uses: dict[tuple[Node, int], None] = {}

    @property
    def name(self) -> str:
        """Name, unique in the graph; for a state it is its `state_dict` name."""
        return self._name

    @property
    def type(self) -> TensorType:
        """Dtype and shape; never changes."""
        return self._type

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Short for `value.type.shape`."""
        return self._type.shape

    @property
    def producer(self) -> Node | None:
        """The node of which this is a result; None for inputs and states."""
        return self._producer

    @property
    def index(self) -> int:
        """Which result of the producer this is; 0 for inputs and states."""
        return self._index

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every place where the value is read, the graph's `return` among them, in order of creation."""
        return tuple(Use(node, index) for node, index in self._uses)

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that read the value, each once; the `return` node among them."""
        return tuple(dict.fromkeys(node for node, _ in self._uses))

    @property
    def use_count(self) -> int:
        """Number of uses, without building a list of them."""
        return len(self._uses)

    def __repr__(self) -> str:
        return f"%{self._name}: {self._type.text}"


Operand: TypeAlias = "Value | bool | int | float | Expression | None"
"""What a node reads: a value, a missing optional operand (None), or a literal number or dimension."""


@dataclass(frozen=True, slots=True)
class Use:
    """One place where a value is read: operand `index` of `node`."""

    node: Node
    index: int


class Node:
    """One operation. Make it with a `Builder` or `Rewriter`; it can't be changed, only replaced."""

    __slots__ = ("_attrs", "_graph", "_next", "_op", "_operands", "_previous", "_regions", "_results", "_source")

    def __init__(
        self,
        op: str,
        operands: Sequence[Operand],
        attrs: Mapping[str, Attribute],
        results: Sequence[Value],
        source: Source,
        regions: Sequence[Graph] = (),
    ) -> None:
        self._op = op
        self._operands = tuple(operands)
        self._attrs: Mapping[str, Attribute] = MappingProxyType({key: freeze_attribute(attrs[key]) for key in sorted(attrs)})
        self._results = tuple(results)
        self._source = source
        self._regions = tuple(regions)
        self._graph: Graph | None = None
        self._previous: Node | None = None
        self._next: Node | None = None

    @property
    def op(self) -> str:
        """Name of the op: canonical (`conv2d`) or opaque (`aten.index_put.default`)."""
        return self._op

    @property
    def operands(self) -> tuple[Operand, ...]:
        """What the node reads, by position as its `OpDef` names them."""
        return self._operands

    @property
    def attrs(self) -> Mapping[str, Attribute]:
        """Attributes by name, sorted; frozen."""
        return self._attrs

    @property
    def results(self) -> tuple[Value, ...]:
        """The values that the node defines."""
        return self._results

    @property
    def result(self) -> Value:
        """The only result.

        Raises:
            IRError: the node has none or several.
        """
        if len(self._results) != 1:
            raise IRError(f"{self._op} has {len(self._results)} results, one is needed here", where=repr(self))
        return self._results[0]

    @property
    def source(self) -> Source:
        """Module path, file and line of the user's model."""
        return self._source

    @property
    def regions(self) -> tuple[Graph, ...]:
        """Sub-graphs, for control flow; they read nothing from outside but their inputs."""
        return self._regions

    @property
    def graph(self) -> Graph | None:
        """The graph that the node is in; None once erased."""
        return self._graph

    @property
    def next(self) -> Node | None:
        """The node that runs after this one; None for the last."""
        return self._next

    @property
    def previous(self) -> Node | None:
        """The node that runs before this one; None for the first."""
        return self._previous

    @property
    def name(self) -> str:
        """Name of the first result, which is what messages call the node."""
        return self._results[0].name if self._results else self._op

    @property
    def is_return(self) -> bool:
        """True for the pseudo-node that holds the graph's outputs as operands."""
        return self._op == "return"

    def value(self, index: int) -> Value:
        """Operand `index`, which has to be a value.

        Raises:
            IRError: it is missing or a literal.
        """
        operand = self._operands[index] if index < len(self._operands) else None
        if not isinstance(operand, Value):
            raise IRError(f"operand {index} of {self._op} is {operand!r}, needs a value", where=repr(self))
        return operand

    def __repr__(self) -> str:
        from graphopt.ir.printer import node_text  # a method for people; the printer needs Node

        return node_text(self)


def operand_values(node: Node) -> tuple[Value, ...]:
    """The operands of a node that are values, in order, repeated where they repeat."""
    return tuple(operand for operand in node.operands if isinstance(operand, Value))


StateKind: TypeAlias = Literal["param", "buffer", "constant"]
"""`param` (in `state_dict`, trained), `buffer` (may be in `state_dict`) or `constant` (made by capture or a pass)."""


@dataclass(frozen=True, slots=True)
class State:
    """A tensor that belongs to the model: parameter, buffer or constant.

    `value.name` is the torch name. `tied` are further `state_dict` names of the same tensor (tied weights).
    `trainable` is `requires_grad`. `persistent` False is a buffer that `state_dict` leaves out.
    `digest` is the SHA-256 of the numbers when they came from a file. `data` is None in a graph that was
    parsed from text alone.
    """

    value: Value
    kind: StateKind
    data: Data | None = None
    tied: tuple[str, ...] = ()
    trainable: bool = True
    persistent: bool = True
    digest: str | None = None

    @property
    def name(self) -> str:
        """The `state_dict` name."""
        return self.value.name

    @property
    def type(self) -> TensorType:
        """Dtype, shape and sparsity annotation."""
        return self.value.type


@dataclass(frozen=True, slots=True)
class CallStructure:
    """How the flat inputs are handed to `forward` and how the flat outputs come back.

    `args` and `kwargs` hold `Ref(i)` for input i, or literals that were fixed at capture; `returns`
    holds `Ref(i)` for output i. `outputs` are names of output pytree types for people (never looked up).
    """

    args: tuple[Attribute, ...]
    kwargs: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])
    returns: Attribute = field(default=Ref(0))

    @staticmethod
    def default(inputs: int, outputs: int) -> CallStructure:
        """All inputs positional; one output as itself, several as a tuple."""
        returns: Attribute = Ref(0) if outputs == 1 else tuple(Ref(i) for i in range(outputs))
        return CallStructure(tuple(Ref(i) for i in range(inputs)), {}, returns)


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
        from graphopt.ir.dims import symbol

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
