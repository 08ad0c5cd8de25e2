"""Values and nodes: what a graph is made of.

A `Value` is defined once and knows its uses; a `Node` has an op, operands, attributes and results. Both are
compared by identity and changed only by `graphopt.ir.editor`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from graphopt.errors import IRError
from graphopt.ir.attributes import Attribute, freeze_attribute
from graphopt.ir.dims import Dim, Expression
from graphopt.ir.types import TensorType

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

__all__ = ["RESERVED_OPS", "Node", "Operand", "Source", "Use", "Value", "operand_values"]

RESERVED_OPS = frozenset({"graph", "return", "param", "buffer", "constant"})
"""Words that begin other statements and so can't name an op."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a node came from: module path in the user's model, file and line of the user's code."""

    module: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else ""
        return f"{place} ({self.module})" if place and self.module else place or self.module or "unknown source"


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
        # A read-only view is another node's attributes, frozen when that node was made.
        frozen = attrs if isinstance(attrs, MappingProxyType) else {key: freeze_attribute(attrs[key]) for key in sorted(attrs)}
        self._attrs: Mapping[str, Attribute] = frozen if isinstance(frozen, MappingProxyType) else MappingProxyType(frozen)
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
