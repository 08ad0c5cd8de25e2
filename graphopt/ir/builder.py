"""Builds a graph from its first line to its last.

    graph = Graph("tiny")
    builder = Builder(graph, infer_types)
    x = builder.input("x", TensorType(DType.f32, (1, 3, 8, 8)))
    y = builder.add("relu", x).result
    builder.outputs(y)

`graphopt.ops.builder(name)` is a builder that infers the types of canonical ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from graphopt.errors import IRError
from graphopt.ir.attributes import Attribute
from graphopt.ir.data import Data, TensorData
from graphopt.ir.dims import Expression
from graphopt.ir.graph import CallStructure, Graph, GraphEditor, Node, Operand, Range, Source, State, StateKind, Value
from graphopt.ir.types import TensorType

if TYPE_CHECKING:
    import torch

__all__ = ["Builder", "InferTypes"]

InferTypes: TypeAlias = Callable[[str, Sequence[Operand], Mapping[str, Attribute], Sequence[Graph]], tuple[TensorType, ...]]
"""Gives the types of an op's results from op, operands, attributes and regions; `graphopt.ops.infer_types` is one."""


class Builder:
    """Appends to a graph. Without `infer`, every `add` has to be given `types`."""

    def __init__(self, graph: Graph, infer: InferTypes | None = None) -> None:
        self._graph = graph
        self._editor = GraphEditor(graph)
        self._infer = infer

    @property
    def graph(self) -> Graph:
        """The graph that is being built."""
        return self._graph

    def symbol(self, name: str, minimum: int = 0, maximum: int | None = None) -> Expression:
        """Declare a symbolic dimension and return it."""
        return self._editor.add_symbol(name, Range(minimum, maximum))

    def input(self, name: str, type_: TensorType) -> Value:
        """Append a graph input.

        Raises:
            IRError: the name is taken.
        """
        return self._editor.add_input(name, type_)

    def state(
        self,
        name: str,
        type_: TensorType,
        data: Data | torch.Tensor | None = None,
        *,
        kind: StateKind = "param",
        tied: Sequence[str] = (),
        trainable: bool = True,
        persistent: bool = True,
    ) -> Value:
        """Add a parameter, buffer or constant; a tensor given as `data` is shared, not copied.

        Raises:
            IRError: the name is taken.
        """
        held = data if data is None or isinstance(data, Data) else TensorData(data)
        state = State(Value(name, type_), kind, held, tuple(tied), trainable, persistent)
        return self._editor.add_state(state).value

    def add(
        self,
        op: str,
        /,
        *operands: Operand,
        name: str | None = None,
        types: Sequence[TensorType] | None = None,
        source: Source | None = None,
        regions: Sequence[Graph] = (),
        names: Sequence[str] | None = None,
        **attrs: Attribute,
    ) -> Node:
        """Append a node; shorthand for `insert` with attributes as keywords."""
        return self.insert(op, operands, attrs, name=name, names=names, types=types, source=source, regions=regions)

    def insert(
        self,
        op: str,
        operands: Sequence[Operand],
        attrs: Mapping[str, Attribute],
        *,
        name: str | None = None,
        names: Sequence[str] | None = None,
        types: Sequence[TensorType] | None = None,
        source: Source | None = None,
        regions: Sequence[Graph] = (),
    ) -> Node:
        """Append a node whose attributes may have any names.

        `types` overrides inference (opaque ops have none). One result is named after `name`, several
        `name.0`, `name.1`, ... unless `names` gives one each; a number is added where a name is taken.
        Without a name it is the last part of the op's.

        Raises:
            IRError: no types given and no way to infer them, or `names` of another number.
            TypeInferenceError: operands or attributes do not fit the op.
        """
        if types is None:
            if self._infer is None:
                raise IRError(f"{op} needs `types`: this builder can't infer any", fix="use graphopt.ops.builder")
            types = self._infer(op, operands, attrs, regions)
        results = self._named(name or _short(op), names, types)
        return self._editor.insert(op, operands, attrs, results, source=source, regions=regions)

    def outputs(self, *values: Operand, structure: CallStructure | None = None) -> Graph:
        """Set what the graph returns, and return the graph."""
        self._editor.set_outputs(values, structure)
        return self._graph

    def _named(self, name: str, names: Sequence[str] | None, types: Sequence[TensorType]) -> list[tuple[str, TensorType]]:
        if names is not None and len(names) != len(types):
            raise IRError(f"{len(names)} names for {len(types)} results")
        wanted = names or ([name] if len(types) == 1 else [f"{name}.{index}" for index in range(len(types))])
        results: list[tuple[str, TensorType]] = []
        for hint, type_ in zip(wanted, types, strict=True):
            free = self._graph.fresh_name(hint)
            while any(free == taken for taken, _ in results):
                free = self._graph.fresh_name(free + "_")
            results.append((free, type_))
        return results


def _short(op: str) -> str:
    """`aten.histc.default` is called `histc`, `conv2d` is called `conv2d`."""
    parts = op.split(".")
    return parts[1] if len(parts) == 3 else parts[-1]
